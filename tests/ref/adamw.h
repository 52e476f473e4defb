// Reference of one AdamW update of one number. Ref: arXiv:1711.05101, algorithm 2, in the form of
// torch.optim.AdamW.
#pragma once

#include <algorithm>
#include <cmath>

namespace lema::ref {

template <typename T>
struct AdamW {
  T lr, beta1, beta2, eps, weight_decay;
  int step;

  void update(T& param, T gradient, T& moment1, T& moment2) const {
    moment1 = beta1 * moment1 + (1 - beta1) * gradient;
    moment2 = beta2 * moment2 + (1 - beta2) * gradient * gradient;
    const T first = moment1 / (1 - std::pow(beta1, step)),
            second = moment2 / (1 - std::pow(beta2, step));
    param -= lr * weight_decay * param + lr * first / (std::sqrt(second) + eps);
  }
};

// What the gradient is multiplied by when its norm (before `grad_scale`) is `norm`;
// torch.nn.utils.clip_grad_norm_.
template <typename T>
T gradient_factor(T norm, T grad_scale, T clip) {
  return clip > 0 ? grad_scale * std::min(T(1), clip / (grad_scale * norm + T(1e-6))) : grad_scale;
}

}  // namespace lema::ref
