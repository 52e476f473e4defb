// Trace: what disk, copy queues and compute did when, as a file that chrome://tracing and
// ui.perfetto.dev show. The trainer, the layer stream and the stores mark spans; without log.trace
// there is no Trace and a span does nothing.
//
// The file is one JSON array of complete events ("ph": "X"; ts and dur in microseconds since the
// trace began), a lane of `tid` 0 to 3 each for disk, H2D, D2H and compute. In its `args` an event
// has `bytes` and `step` (0 before the first) or, of an evaluation, the last step as `evaluation`.
// Ref: the Trace Event Format, section "JSON Array Format".
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/file.h"
#include "device.h"

namespace lema {

class Trace {
 public:
  // Creates `path` anew. `device` outlives the trace.
  Trace(Device& device, const fs::path& path);
  Trace(const Trace&) = delete;
  ~Trace();

  // From here to the end of the object's life, in the order of the queue's work: waits that were
  // submitted before it do not count. `trace` may be null.
  class Span {
   public:
    Span(Trace* trace, Queue queue, std::string name, int64_t bytes = 0);
    Span(const Span&) = delete;
    ~Span();

   private:
    Trace* trace_;
    size_t index_ = 0;
  };
  using Clock = std::chrono::steady_clock;
  // What the disk did meanwhile. One read after the other: the part of a span that lies before the
  // end of the last one is left out.
  void disk_span(const std::string& name, int64_t bytes, Clock::time_point begin,
                 Clock::time_point end);

  // The spans from here on are of this step, or of an evaluation after the last one. Flushes.
  void begin_step(int64_t step);
  void begin_evaluation();
  // Waits for all queues and writes the spans since the last call. Io when that fails.
  void flush();

 private:
  struct Mark {
    Queue queue = Queue::Compute;
    std::string name;
    int64_t bytes = 0;
    Event begin, end;
    bool has_ended = false;
  };
  void write_event(int lane, const std::string& name, double begin_us, double length_us,
                   int64_t bytes);

  Device& device_;
  File file_;
  std::string lines_;  // not written yet
  const char* pass_ = "step";
  int64_t step_ = 0;
  Clock::time_point start_, disk_end_;
  Event base_, next_base_;  // of the times of `marks_`
  double base_us_ = 0;      // from the start to base_
  std::vector<Mark> marks_;  // since the last flush; their timers are used again
  size_t used_ = 0;          // of marks_
};

}  // namespace lema
