/* support_npy.c - .npy files are read as NumPy wrote them, or refused with a reason.
 *
 * Method: files made here byte by byte; every float16 against its definition;
 * every length of a file cut. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/npy.h"

static char path[] = "/tmp/vshard-npy-XXXXXX";

static void init(void)
{
    strcpy(path, "/tmp/vshard-npy-XXXXXX");
    close(mkstemp(path));
}

static void fini(void)
{
    unlink(path);
}

TestSuite(support_npy, .init = init, .fini = fini);

/* Returns the bytes of the file. */
static size_t make(const char *dictionary, const void *data, size_t data_bytes)
{
    FILE *file = fopen(path, "wb");
    size_t n = strlen(dictionary);

    cr_assert_not_null(file);
    fwrite("\x93NUMPY\1\0", 1, 8, file);
    fputc((int)(n & 255), file);
    fputc((int)(n >> 8), file);
    fwrite(dictionary, 1, n, file);
    fwrite(data, 1, data_bytes, file);
    fclose(file);
    return 10 + n + data_bytes;
}

Test(support_npy, knows_every_float16)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
        double want = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        float got = npy_half((uint16_t)bits);

        if (exponent == 31)
            cr_assert(fraction ? isnan(got) : isinf(got), "bits %04x", bits);
        else
            cr_assert_eq((double)got, bits & 0x8000 ? -want : want, "bits %04x", bits);
        cr_assert_eq(!!signbit(got), bits >> 15, "bits %04x", bits);
    }
}

Test(support_npy, reads_each_type)
{
    static const uint16_t halves[] = { 0x3c00, 0xc000, 0x3800, 0, 0x4200, 0x7bff };
    static const float floats[] = { 1, -2, 0.5f, 0, 3, 65504 };
    static const uint8_t bytes[] = { 1, 2, 3, 4, 5, 255 };
    static const int32_t ints[] = { 1, -2, 3, 0, 5, 1 << 24 };
    static const char *const names[] = { "<f2", "<f4", "|u1", "<i4" };
    static const size_t sizes[] = { sizeof halves, sizeof floats, sizeof bytes, sizeof ints };
    const void *data[] = { halves, floats, bytes, ints };
    static const float want[4][6] = { { 1, -2, 0.5f, 0, 3, 65504 },
                                      { 1, -2, 0.5f, 0, 3, 65504 },
                                      { 1, 2, 3, 4, 5, 255 },
                                      { 1, -2, 3, 0, 5, 16777216 } };

    for (size_t t = 0; t < 4; t++) {
        char dictionary[128];
        struct npy array;
        float row[3];

        snprintf(dictionary, sizeof dictionary,
                 "{'descr': '%s', 'fortran_order': False, 'shape': (2, 3), }\n", names[t]);
        make(dictionary, data[t], sizes[t]);
        cr_assert_eq(npy_read(&array, path, 0), 0, "%s", array.error);
        cr_expect_eq(array.type, t + 1);
        cr_assert(array.rows == 2 && array.columns == 3);
        npy_row_float(&array, 1, row);
        cr_expect_arr_eq(row, want[t] + 3, sizeof row, "%s", names[t]);
        float *all = npy_floats(&array);
        cr_expect_arr_eq(all, want[t], sizeof want[t], "%s", names[t]);
        free(all);
        npy_free(&array);
        cr_assert_eq(npy_read(&array, path, 1), 0);
        cr_expect_eq(array.rows, 1, "no more than asked for");
        npy_free(&array);
    }
}

Test(support_npy, reads_a_vector_as_one_column)
{
    struct npy array;

    make("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", "abcd", 4);
    cr_assert_eq(npy_read(&array, path, 0), 0, "%s", array.error);
    cr_expect(array.rows == 4 && array.columns == 1);
    npy_free(&array);
}

Test(support_npy, refuses_a_file_cut_anywhere)
{
    size_t bytes = make("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }", "abcdef", 6);

    while (bytes-- > 0) {
        struct npy array;

        cr_assert_eq(truncate(path, (off_t)bytes), 0);
        cr_expect_eq(npy_read(&array, path, 0), -1, "%zu bytes", bytes);
        cr_expect_neq(array.error[0], '\0');
        npy_free(&array);
    }
}

Test(support_npy, refuses_what_it_does_not_know)
{
    static const char *const dictionaries[] = {
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (1, 1), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (), }",
        "{'descr': '|u1', 'fortran_order': False, }",
        "{'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 0), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (18446744073709551615, 2), }",
        "",
    };
    struct npy array;

    for (size_t i = 0; i < sizeof dictionaries / sizeof dictionaries[0]; i++) {
        make(dictionaries[i], "12345678", 8);
        cr_expect_eq(npy_read(&array, path, 0), -1, "%s", dictionaries[i]);
        npy_free(&array);
    }
    cr_expect_eq(npy_read(&array, "/nowhere/at/all.npy", 0), -1);
}
