// Timers in pairs around the work of a queue, read and written when a step or evaluation is over.
#include "stream/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "core/error.h"

namespace lema {
namespace {

constexpr const char* kLaneNames[] = {"disk", "H2D", "D2H", "compute"};
constexpr int kDiskLane = 0;

int lane_of(Queue queue) { return queue == Queue::H2D ? 1 : queue == Queue::D2H ? 2 : 3; }

}  // namespace

Trace::Trace(Device& device, const fs::path& path)
    : device_(device),
      file_((write_file(path, "["), File::append(path))),
      base_(device.create_timer()),
      next_base_(device.create_timer()) {
  for (int lane = 0; lane < 4; ++lane)
    lines_ += fmt::format(
        R"({}{{"name":"thread_name","ph":"M","pid":0,"tid":{},"args":{{"name":"{}"}}}})",
        lane == 0 ? "\n" : ",\n", lane, kLaneNames[lane]);
  device_.synchronize(Queue::Compute);
  device_.record(base_, Queue::Compute);
  start_ = disk_end_ = Clock::now();
}

Trace::~Trace() {
  try {
    if (std::uncaught_exceptions() == 0) flush();
  } catch (const Error&) {  // what was flushed before stands
  }
  try {
    lines_ += "\n]\n";
    file_.write(lines_.data(), std::ssize(lines_));
  } catch (const Error&) {  // the viewers read an array without an end too
  }
}

Trace::Span::Span(Trace* trace, Queue queue, std::string name, int64_t bytes) : trace_(trace) {
  if (!trace_) return;
  index_ = trace_->used_++;
  if (index_ == trace_->marks_.size())
    trace_->marks_.push_back(
        {queue, {}, 0, trace_->device_.create_timer(), trace_->device_.create_timer(), false});
  Mark& mark = trace_->marks_[index_];
  mark.queue = queue;
  mark.name = std::move(name);
  mark.bytes = bytes;
  mark.has_ended = false;
  trace_->device_.record(mark.begin, queue);
}

Trace::Span::~Span() {
  // While an error ends the step, the queue may refuse more work.
  if (!trace_ || std::uncaught_exceptions() > 0) return;
  Mark& mark = trace_->marks_[index_];
  trace_->device_.record(mark.end, mark.queue);
  mark.has_ended = true;
}

void Trace::disk_span(const std::string& name, int64_t bytes, Clock::time_point begin,
                      Clock::time_point end) {
  const auto us = [](auto duration) {
    return std::chrono::duration<double, std::micro>(duration).count();
  };
  begin = std::max(begin, disk_end_);
  disk_end_ = std::max(begin, end);
  write_event(kDiskLane, name, us(begin - start_), us(disk_end_ - begin), bytes);
}

void Trace::write_event(int lane, const std::string& name, double begin_us, double length_us,
                        int64_t bytes) {
  lines_ += fmt::format(
      R"(,{}{{"name":"{}","ph":"X","pid":0,"tid":{},"ts":{:.1f},"dur":{:.1f},)"
      R"("args":{{"{}":{},"bytes":{}}}}})",
      "\n", name, lane, begin_us, length_us, pass_, step_, bytes);
}

void Trace::begin_step(int64_t step) {
  flush();
  pass_ = "step";
  step_ = step;
}

void Trace::begin_evaluation() {
  flush();
  pass_ = "evaluation";
}

void Trace::flush() {
  for (const Queue queue : {Queue::H2D, Queue::D2H, Queue::Compute}) device_.synchronize(queue);
  for (size_t i = 0; i < used_; ++i) {
    const Mark& mark = marks_[i];
    if (!mark.has_ended) continue;  // an error has ended its step
    write_event(lane_of(mark.queue), mark.name,
                base_us_ + 1000 * device_.elapsed_ms(base_, mark.begin),
                1000 * device_.elapsed_ms(mark.begin, mark.end), mark.bytes);
  }
  used_ = 0;
  // Times are f32 milliseconds on a GPU: counted from the last flush they keep their microseconds.
  device_.record(next_base_, Queue::Compute);
  device_.synchronize(next_base_);
  base_us_ += 1000 * device_.elapsed_ms(base_, next_base_);
  std::swap(base_, next_base_);
  file_.write(lines_.data(), std::ssize(lines_));
  lines_.clear();
}

}  // namespace lema
