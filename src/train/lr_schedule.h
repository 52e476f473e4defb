// Learning rate per optimizer step, as transformers' schedulers give it.
#pragma once

#include <cstdint>
#include <string>

namespace lema {

struct LrSchedule {
  std::string name = "cosine";  // cosine | linear | constant | wsd
  double lr = 0;
  int64_t warmup_steps = 0, total_steps = 0;
  double min_lr_ratio = 0;

  // Rate of the update with 0-based index `step`. All warm up linearly from 0 at lr * step /
  // warmup_steps, then with p = (step - warmup) / (total - warmup):
  //   cosine    min + (1 - min) (1 + cos(pi p)) / 2     Ref:
  //   get_cosine_with_min_lr_schedule_with_warmup linear    min + (1 - min) (1 - p) Ref:
  //   get_linear_schedule_with_warmup (min 0) constant  1 wsd       1 until the last fifth of all
  //   steps, then linearly to min   Ref: arXiv:2404.06395
  double at(int64_t step) const;
};

// warmup < 1 is a share of all steps, rounded up; else steps.
int64_t warmup_steps(double warmup, int64_t total_steps);

}  // namespace lema
