/* What one core can do at most: fused multiply-adds in fp32 and in int8 (VNNI), in registers alone. Prints both in 10^9 operations
   a CPU second, the best of five tries. Needs AVX-512 VNNI: cc -O2 -mavx512f -mavx512vnni */
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { CHAINS = 16, TURNS = 4000000, TRIES = 5 }; /* so many chains hide an instruction's latency */

static double cpu_seconds(void) {
  struct timespec told;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &told);
  return told.tv_sec + told.tv_nsec * 1e-9;
}

int main(void) {
  double best[2] = {0, 0}, kept = 0;
  for (int n = 0; n < TRIES; n++) {
    __m512 sums[CHAINS], half = _mm512_set1_ps(0.5f);
    __m512i counts[CHAINS], ones = _mm512_set1_epi8(1);
    for (int c = 0; c < CHAINS; c++) sums[c] = half, counts[c] = ones;
    double began = cpu_seconds();
    for (int turn = 0; turn < TURNS; turn++) {
#pragma GCC unroll 16
      for (int c = 0; c < CHAINS; c++) sums[c] = _mm512_fmadd_ps(sums[c], half, half);
      __asm__ volatile("" : "+v"(half)); /* or the compiler works it out itself */
    }
    double middle = cpu_seconds();
    for (int turn = 0; turn < TURNS; turn++) {
#pragma GCC unroll 16
      for (int c = 0; c < CHAINS; c++) counts[c] = _mm512_dpbusd_epi32(counts[c], ones, ones);
      __asm__ volatile("" : "+v"(ones));
    }
    double took[2] = {middle - began, cpu_seconds() - middle}, each[2] = {2 * 16, 2 * 64};
    for (int c = 0; c < CHAINS; c++) kept += _mm512_reduce_add_ps(sums[c]) + _mm512_reduce_add_epi32(counts[c]);
    for (int k = 0; k < 2; k++) {
      double speed = each[k] * CHAINS * TURNS / took[k] * 1e-9;
      if (speed > best[k]) best[k] = speed;
    }
  }
  printf("%.1f %.1f\n", best[0], best[1]);
  return kept == 0.125; /* the sums are read, so they must be made */
}
