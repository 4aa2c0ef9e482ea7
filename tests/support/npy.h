/* npy.h - reads NumPy's .npy files, version 1, in C order. */
#ifndef SUPPORT_NPY_H
#define SUPPORT_NPY_H

#include <stddef.h>
#include <stdint.h>

enum { NPY_FLOAT16 = 1, NPY_FLOAT32 = 2, NPY_UINT8 = 3, NPY_INT32 = 4 };

struct npy {
    uint32_t type;       /* NPY_* */
    uint32_t item_bytes; /* of one number */
    size_t rows;
    size_t columns; /* 1 for a vector */
    void *data;     /* [rows x columns], as stored */
    char error[160];
};

/* Reads the first rows of a file, all of them if rows_max is 0. Returns 0, or -1
 * with the reason in `error`; release it with npy_free() either way. */
int npy_read(struct npy *array, const char *path, size_t rows_max);

void npy_free(struct npy *array);

/* Copies one row as float32; every float16, uint8 and float32 is one exactly. */
void npy_row_float(const struct npy *array, size_t row, float *out);

/* The whole of it as float32 [rows x columns], to be freed by the caller; NULL
 * when there is no memory. */
float *npy_floats(const struct npy *array);

/* The number a float16 stands for. */
float npy_half(uint16_t bits);

#endif
