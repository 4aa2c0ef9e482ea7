/* immintrin.h - stands in for the compiler's own, so that the AVX-512 and VNNI
 * variants can be run on a machine that has neither.
 *
 * SIMDe (Debian: libsimde-dev) says in C what each intrinsic does. What version
 * 0.7.4 lacks is below, lane by lane, after the vendor's description. */
#ifndef VS_TEST_SIMDE_IMMINTRIN_H
#define VS_TEST_SIMDE_IMMINTRIN_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef simde__mmask16 __mmask16;
typedef simde__mmask64 __mmask64;

static inline __m512i vs_expand(__m512i src, __mmask16 k, __m512i a)
{
    int32_t s[16], from[16];
    int next = 0;

    memcpy(s, &src, sizeof s);
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) {
        if (k >> i & 1)
            s[i] = from[next++];
    }
    memcpy(&src, s, sizeof s);
    return src;
}

static inline __m512i vs_load_masked(__mmask64 k, const void *from, size_t element)
{
    __m512i v;
    char to[64] = { 0 };

    for (size_t i = 0; i < 64 / element; i++) {
        if (k >> i & 1)
            memcpy(to + i * element, (const char *)from + i * element, element);
    }
    memcpy(&v, to, sizeof to);
    return v;
}

static inline __m512 vs_to_floats(__m512i v)
{
    int32_t n[16];
    float f[16];
    __m512 r;

    memcpy(n, &v, sizeof n);
    for (int i = 0; i < 16; i++)
        f[i] = (float)n[i];
    memcpy(&r, f, sizeof f);
    return r;
}

static inline __m256i vs_load_halves(__mmask16 k, const void *from)
{
    __m256i v;
    char to[32] = { 0 };

    for (size_t i = 0; i < 16; i++) {
        if (k >> i & 1)
            memcpy(to + i * 2, (const char *)from + i * 2, 2);
    }
    memcpy(&v, to, sizeof to);
    return v;
}

static inline __m512 vs_widen_halves(__m256i v)
{
    uint16_t halves[16];
    float f[16];
    __m512 r;

    memcpy(halves, &v, sizeof halves);
    for (int i = 0; i < 16; i++) {
        int exponent = halves[i] >> 10 & 31, fraction = halves[i] & 1023;

        f[i] = exponent == 31 ? fraction ? NAN : INFINITY
               : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                              : ldexpf((float)fraction, -24);
        f[i] = halves[i] & 0x8000 ? -f[i] : f[i];
    }
    memcpy(&r, f, sizeof f);
    return r;
}

static inline __m512i vs_to_int32(__m512 v)
{
    float f[16];
    int32_t n[16];
    __m512i r;

    memcpy(f, &v, sizeof f);
    for (int i = 0; i < 16; i++)
        n[i] = (int32_t)rintf(f[i]);
    memcpy(&r, n, sizeof n);
    return r;
}

static inline void vs_store_bytes(void *to, __mmask16 k, __m512i v)
{
    int32_t n[16];

    memcpy(n, &v, sizeof n);
    for (int i = 0; i < 16; i++) {
        if (k >> i & 1)
            ((uint8_t *)to)[i] = (uint8_t)n[i];
    }
}

static inline __m512i vs_widen(__m256i v)
{
    uint32_t n[8];
    uint64_t w[8];
    __m512i r;

    memcpy(n, &v, sizeof n);
    for (int i = 0; i < 8; i++)
        w[i] = n[i];
    memcpy(&r, w, sizeof w);
    return r;
}

static inline __m256 vs_half(__m512 v, int which)
{
    float f[16];
    __m256 h;

    memcpy(f, &v, sizeof f);
    memcpy(&h, f + 8 * which, sizeof h);
    return h;
}

static inline __m256 vs_load_signed(const float *from, __m256i mask) /* SIMDe reads it all */
{
    int32_t k[8];
    float f[8];
    __m256 v;

    memcpy(k, &mask, sizeof k);
    for (int i = 0; i < 8; i++)
        f[i] = k[i] < 0 ? from[i] : 0;
    memcpy(&v, f, sizeof v);
    return v;
}

static inline int64_t vs_or_lanes(__m512i v)
{
    int64_t n[8], all = 0;

    memcpy(n, &v, sizeof n);
    for (int i = 0; i < 8; i++)
        all |= n[i];
    return all;
}

static inline __mmask16 vs_not_above(__m512i a, __m512i b)
{
    int32_t x[16], y[16];
    unsigned k = 0;

    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (int i = 0; i < 16; i++)
        k |= (unsigned)(x[i] <= y[i]) << i;
    return (__mmask16)k;
}

#undef _mm512_mask_expand_epi32
#define _mm512_mask_expand_epi32(src, k, a) vs_expand(src, k, a)
#undef _mm512_maskz_expand_epi32
#define _mm512_maskz_expand_epi32(k, a) vs_expand(_mm512_setzero_si512(), k, a)
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8(k, from) vs_load_masked(k, from, 1)
#undef _mm512_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi32(k, from) vs_load_masked(k, from, 4)
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(v) vs_to_floats(v)
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(k, from) _mm512_castsi512_ps(vs_load_masked(k, from, 4))
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16(k, from) vs_load_halves(k, from)
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(v) vs_widen_halves(v)
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32(v) vs_to_int32(v)
#undef _mm512_mask_cvtepi32_storeu_epi8
#define _mm512_mask_cvtepi32_storeu_epi8(to, k, v) vs_store_bytes(to, k, v)
#undef _mm512_cvtepu32_epi64
#define _mm512_cvtepu32_epi64(v) vs_widen(v)
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(v, which) vs_half(v, which)
#undef _mm256_maskload_ps
#define _mm256_maskload_ps(from, mask) vs_load_signed(from, mask)
#undef _mm256_maskload_epi32
#define _mm256_maskload_epi32(from, mask) \
    _mm256_castps_si256(vs_load_signed((const float *)(const void *)(from), mask))
#undef _mm512_reduce_or_epi64
#define _mm512_reduce_or_epi64(v) vs_or_lanes(v)
#undef _mm512_cmple_epi32_mask
#define _mm512_cmple_epi32_mask(a, b) vs_not_above(a, b)
#undef _mm512_madd_epi16 /* the alias has the wrong number of arguments */
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32(sum, a, b) _mm256_dpbusd_epi32(sum, a, b)

#endif
