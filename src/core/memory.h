// What the process and the machine say about memory, and the heap's manners.
#pragma once

#include <cstdint>
#include <string>

namespace lema {

// Bytes of memory this process holds, as the kernel counts them (/proc/self/status): anonymous
// pages are its own, file-mapped ones can be dropped and read again.
struct ResidentMemory {
  int64_t total = 0, anonymous = 0, file_mapped = 0, peak = 0;
};
ResidentMemory resident_memory();

// Bytes that this process could take in addition: what the machine has available, within the
// limits of the process's control groups; INT64_MAX where neither says.
int64_t available_memory();
// A tenth less: what is left to other processes where a plan takes all that it may.
int64_t less_reserve(int64_t available);

// Gives freed heap memory back to the system, and from here on as soon as it is freed.
void return_freed_memory();

// What the heap takes for an allocation of `bytes`.
int64_t heap_bytes(int64_t bytes);

}  // namespace lema
