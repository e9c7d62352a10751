/*
 * tests/lib/random.h: random numbers for test programs, the same ones for the same seed: xorshift64* (Vigna). One generator per process.
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>

static uint64_t rng_state; /* the seed; not 0 */

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 0x2545F4914F6CDD1Dull;
}

/* below(n): 0 to n - 1; 0 when n is 0. */
static uint64_t below(uint64_t n)
{
	return n ? (rng() >> 11) % n : 0;
}

#endif
