// LEMA_HD: marks a function that GPU kernels call too.
#pragma once

#ifdef __CUDACC__
#define LEMA_HD __host__ __device__
#else
#define LEMA_HD
#endif
