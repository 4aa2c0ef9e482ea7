/* npy.c - reads NumPy's .npy files, version 1, in C order.
 *
 *     0   6   "\x93NUMPY"
 *     6   2   version, 1.0
 *     8   2   bytes of the header that follows, little-endian
 *    10   -   a Python dictionary in ASCII, such as
 *             {'descr': '<f2', 'fortran_order': False, 'shape': (331479, 100), }
 *     -   -   the numbers
 *
 * Source: NumPy, NEP 1. */
#include "support/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

float npy_half(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits >> 15) << 31, exponent = bits >> 10 & 31,
             fraction = bits & 1023;
    uint32_t out;
    float f;

    if (exponent == 31)
        out = sign | 0x7f800000u | fraction << 13;
    else if (exponent != 0)
        out = sign | (exponent + 112) << 23 | fraction << 13;
    else { /* zero and the subnormals, fraction * 2^-24 */
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    memcpy(&f, &out, sizeof f);
    return f;
}

static int fail(struct npy *array, const char *path, const char *why)
{
    snprintf(array->error, sizeof array->error, "%.100s: %s", path, why);
    return -1;
}

static int parse_type(struct npy *array, const char *header)
{
    static const struct {
        const char *name;
        uint32_t type, bytes;
    } types[] = { { "'<f2'", NPY_FLOAT16, 2 },
                  { "'<f4'", NPY_FLOAT32, 4 },
                  { "'|u1'", NPY_UINT8, 1 },
                  { "'<i4'", NPY_INT32, 4 } };
    const char *at = strstr(header, "'descr':");

    for (size_t i = 0; at != NULL && i < sizeof types / sizeof types[0]; i++) {
        if (strncmp(at + 8 + strspn(at + 8, " "), types[i].name, 5) == 0) {
            array->type = types[i].type;
            array->item_bytes = types[i].bytes;
            return 0;
        }
    }
    return -1;
}

/* "(rows, columns)", or "(rows,)" for a vector. */
static int parse_shape(struct npy *array, const char *header)
{
    const char *at = strstr(header, "'shape':");
    unsigned long long rows, columns;
    int fields;

    if (at == NULL)
        return -1;
    fields = sscanf(at + 8, " (%llu, %llu)", &rows, &columns);
    if (fields < 1)
        return -1;
    array->rows = (size_t)rows;
    array->columns = fields == 2 ? (size_t)columns : 1;
    return array->columns > 0 && array->columns <= 1u << 20 && array->rows <= SIZE_MAX >> 24 ? 0
                                                                                             : -1;
}

static int read_all(struct npy *array, FILE *file, const char *path, size_t rows_max)
{
    unsigned char start[10];
    char header[65536];
    size_t bytes;

    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY\1\0", 8) != 0)
        return fail(array, path, "not an .npy file of version 1");
    bytes = (size_t)start[8] | (size_t)start[9] << 8;
    if (fread(header, 1, bytes, file) != bytes)
        return fail(array, path, "cut short in its header");
    header[bytes] = '\0';
    if (strstr(header, "'fortran_order': False") == NULL)
        return fail(array, path, "not in C order");
    if (parse_type(array, header) != 0)
        return fail(array, path, "neither float16, float32, uint8 nor int32");
    if (parse_shape(array, header) != 0)
        return fail(array, path, "of a shape that is not rows x columns");
    if (rows_max != 0 && array->rows > rows_max)
        array->rows = rows_max;
    bytes = array->rows * array->columns * array->item_bytes;
    array->data = malloc(bytes ? bytes : 1);
    if (array->data == NULL)
        return fail(array, path, "larger than the memory there is");
    if (fread(array->data, 1, bytes, file) != bytes)
        return fail(array, path, "cut short");
    return 0;
}

int npy_read(struct npy *array, const char *path, size_t rows_max)
{
    FILE *file = fopen(path, "rb");
    int rc;

    memset(array, 0, sizeof *array);
    if (file == NULL)
        return fail(array, path, strerror(errno));
    rc = read_all(array, file, path, rows_max);
    fclose(file);
    return rc;
}

void npy_free(struct npy *array)
{
    free(array->data);
    array->data = NULL;
}

void npy_row_float(const struct npy *array, size_t row, float *out)
{
    size_t first = row * array->columns;

    for (size_t i = 0; i < array->columns; i++) {
        switch (array->type) {
        case NPY_FLOAT16: out[i] = npy_half(((const uint16_t *)array->data)[first + i]); break;
        case NPY_FLOAT32: out[i] = ((const float *)array->data)[first + i]; break;
        case NPY_UINT8: out[i] = ((const uint8_t *)array->data)[first + i]; break;
        default: out[i] = (float)((const int32_t *)array->data)[first + i]; break;
        }
    }
}

float *npy_floats(const struct npy *array)
{
    float *all = malloc((array->rows * array->columns + 1) * sizeof *all);

    for (size_t r = 0; all != NULL && r < array->rows; r++)
        npy_row_float(array, r, all + r * array->columns);
    return all;
}
