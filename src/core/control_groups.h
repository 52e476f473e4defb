// What the control groups (cgroup version 2) of this process leave it. Read by memory.cpp and
// thread_pool.cpp.
#pragma once

#include <cstdint>
#include <string>

namespace lema {

// The groups count from the process's own, which the file `process_groups` names, up to the root.
struct ControlGroups {
  std::string root = "/sys/fs/cgroup", process_groups = "/proc/self/cgroup";

  // Bytes of memory to be had under every limit, cached file pages among them; INT64_MAX without
  // one.
  int64_t memory_left() const;
  // CPUs' worth of time, rounded up; INT_MAX without a quota.
  int cpus() const;
};

}  // namespace lema
