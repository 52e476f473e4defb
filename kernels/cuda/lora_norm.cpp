// W + scale B A for some outputs at a time in f32 scratch, then the lengths. Ref: arXiv:2402.09353,
// section 4.1; peft DoraLinearLayer.get_weight_norm.
#include "cuda/lora_norm.h"

#include <algorithm>

#include "cuda/elementwise.h"

namespace lema::cuda {

void lora_norm(const Engine& engine, TensorView norm, const LinearPart& part) {
  const int64_t O = part.out(), I = part.in();
  const LoraView& lora = *part.lora;
  const int64_t R = lora.a.shape[0];
  const MatrixView weight(part.weight.data, part.weight.dtype, part.weight.shape[0],
                          part.weight.shape[1]);
  const MatrixView a(lora.a.data, DType::F32, R, I), b(lora.b.data, DType::F32, O, R);
  const int64_t step = converted_step(I, DType::F32);
  for (int64_t o = 0; o < O; o += step) {
    const Workspace::Scope scope(engine.workspace);
    const int64_t n = std::min(step, O - o);
    const MatrixView stored =
        part.transposed ? weight.col_range(o, o + n) : weight.row_range(o, o + n);
    const MatrixView adapted = engine.workspace.take(DType::F32, stored.rows, stored.cols);
    convert(engine.stream, adapted, stored);
    const Operand b_rows(b.row_range(o, o + n));
    if (part.transposed)
      engine.gemm.run({adapted, Operand(a).turned(), b_rows.turned(), R, lora.scale, 1});
    else
      engine.gemm.run({adapted, b_rows, a, R, lora.scale, 1});
    lengths(engine.stream, norm.as<float>() + o, adapted, part.transposed);
  }
}

}  // namespace lema::cuda
