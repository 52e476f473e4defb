// How the CPU kernels reach wide vectors in a binary that runs on every x86-64: loops marked LEMA_CLONES are compiled
// for AVX-512, AVX2 and SSE2, and the loader picks one.
#pragma once

// The loader's resolvers run before ThreadSanitizer's runtime exists, so that build has the baseline only.
#if defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
#define LEMA_CLONES
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LEMA_CLONES
#endif
#endif
#ifndef LEMA_CLONES
#define LEMA_CLONES [[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]]
#endif
