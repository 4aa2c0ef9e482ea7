/* x86.h - private to lib/kernel: what the AVX2 and AVX-512 variants share. */
#ifndef VS_KERNEL_X86_H
#define VS_KERNEL_X86_H

#include <immintrin.h>

#include "kernel/topics.h"

/* SSE2 needs no target: every x86-64 has it. */
#define AVX2    VS_TARGET("avx2,fma")
#define AVXVNNI VS_TARGET("avx2,fma,avxvnni")
#define AVX512  VS_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")
#define POPCNT  VS_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")
#define VNNI    VS_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

/* ---- sums ----
 * Four vectors to the four sums of their lanes. Adding neighbours first lets the
 * four share their steps, which is why rows are taken in fours. */
AVX2 VS_STEP __m128 sum4_ps(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

AVX2 VS_STEP __m128i sum4_epi32(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

AVX512 VS_STEP __m256 halves_ps(__m512 v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

AVX512 VS_STEP __m256i halves_epi32(__m512i v)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
}

/* By shuffles that cost one step each, where a horizontal sum is three. */
AVX512 VS_STEP __m128i avx512_sum4_epi32(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = halves_epi32(s);
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

VS_STEP __m128i sse2_sum4_epi32(__m128i a, __m128i b, __m128i c, __m128i d)
{
    __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

VS_STEP __m128 sse2_sum4_ps(__m128 a, __m128 b, __m128 c, __m128 d)
{
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

/* ---- ends ----
 * All ones in the first n lanes of eight, n < 8. */
AVX2 VS_STEP __m256i first_lanes(size_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

/* The first `bytes` of 16, zeros behind them. */
VS_STEP __m128i sse2_few(const void *from, size_t bytes)
{
    uint8_t few[16] = { 0 };

    memcpy(few, from, bytes);
    return _mm_loadu_si128((const void *)few);
}

/* All ones for the first n floats of 16; for all of them when there are more. */
AVX512 VS_STEP __mmask16 first_floats(size_t n)
{
    return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xffff);
}

/* All ones for the first n bytes of 64; for all of them when there are more. */
AVX512 VS_STEP __mmask64 first_bytes(size_t n)
{
    return n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0;
}

/* The last `left` elements of a run of `count` bytes, left < 32, zeros beside
 * them. AVX2 has no masked load of bytes: where there are 32 bytes, the last 32
 * are loaded and those already seen are cleared. So with 16 or 8 where the run itself
 * is shorter than 32. The order is not that of the run, but the same for each run of
 * one length. */
AVX2 VS_STEP __m256i last_bytes(const void *run, size_t count, size_t left)
{
    static const uint8_t mask[64] = { [32] = 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                      255,        255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                      255,        255, 255, 255, 255, 255, 255, 255, 255, 255 };
    const uint8_t *bytes = run;
    uint8_t few[32] = { 0 };

    if (count >= 32)
        return _mm256_and_si256(_mm256_loadu_si256((const void *)(bytes + count - 32)),
                                _mm256_loadu_si256((const void *)(mask + left)));
    if (count >= 16) {
        __m128i rest = _mm_loadu_si128((const void *)(bytes + count - 16));
        rest = _mm_and_si128(rest, _mm_loadu_si128((const void *)(mask + left)));
        return _mm256_set_m128i(rest, _mm_loadu_si128((const void *)bytes));
    }
    if (count >= 8) {
        __m128i rest = _mm_loadl_epi64((const void *)(bytes + count - 8));
        rest = _mm_and_si128(rest, _mm_loadl_epi64((const void *)(mask + 16 + left)));
        rest = _mm_unpacklo_epi64(_mm_loadl_epi64((const void *)bytes), rest);
        return _mm256_set_m128i(_mm_setzero_si128(), rest);
    }
    memcpy(few, bytes, left);
    return _mm256_loadu_si256((const void *)few);
}

#endif
