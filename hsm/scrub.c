/* What calls into libraries leave behind in the calling thread. */
#include "base/secret.h"
#include "internal.h"

#if defined(__x86_64__)
#define ZERO_HIGH(n) "vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#endif

/*
 * The last memcpy of a secret leaves it in vector registers, and the next lazily bound call spills all of them to the
 * stack (_dl_runtime_resolve). Registers 16 to 31 are glibc's choice where AVX-512 is present; no code of ours uses them.
 */
static void scrub_registers(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vzeroall" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
				 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	if (__builtin_cpu_supports("avx512f"))
		__asm__ volatile(ZERO_HIGH(16) ZERO_HIGH(17) ZERO_HIGH(18) ZERO_HIGH(19) ZERO_HIGH(20) ZERO_HIGH(21)
				 ZERO_HIGH(22) ZERO_HIGH(23) ZERO_HIGH(24) ZERO_HIGH(25) ZERO_HIGH(26) ZERO_HIGH(27)
				 ZERO_HIGH(28) ZERO_HIGH(29) ZERO_HIGH(30) ZERO_HIGH(31) : : : "memory");
#endif
}

/* Not inlined, so that its frame lies where the callees of the caller had theirs. */
__attribute__((noinline)) void hsm_scrub(void)
{
	char below[16384];

	base_secret_wipe(below, sizeof(below));
	scrub_registers();
}
