// Bodies of the checks: a handful of predicates with messages, then one function per Ops method.
#include "checks.h"

#include <algorithm>
#include <string>

#include "core/error.h"

// What a message says of an argument. Written only where a check fails: a decoded token passes some
// thousand of them.
struct Described {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  static auto put(const std::string& text, fmt::format_context& context) {
    return std::copy(text.begin(), text.end(), context.out());
  }
};
template <>
struct fmt::formatter<lema::Shape> : Described {
  auto format(const lema::Shape& shape, fmt::format_context& context) const {
    return put(shape.str(), context);
  }
};
template <>
struct fmt::formatter<lema::MatrixView> : Described {
  auto format(const lema::MatrixView& m, fmt::format_context& context) const {
    return put(fmt::format("{} ({}, {})", name(m.dtype), m.rows, m.cols), context);
  }
};
template <>
struct fmt::formatter<lema::TensorView> : Described {
  auto format(const lema::TensorView& t, fmt::format_context& context) const {
    return put(fmt::format("{} {}", name(t.dtype), t.shape.str()), context);
  }
};

namespace lema::checks {
namespace {

bool is_storage(DType dtype) {
  return dtype == DType::F32 || dtype == DType::BF16 || dtype == DType::F16;
}

// A matrix of activations; returns its dtype, which the other arguments share.
DType activation(const char* op, const char* what, const MatrixView& m) {
  check(m.data != nullptr || m.rows == 0, "{}: {} is null", op, what);
  check(is_storage(m.dtype), "{}: {} is {}, expected F32, BF16 or F16", op, what, m);
  check(m.rows >= 0 && m.cols > 0 && m.stride >= m.cols, "{}: {} is {} with rows {} apart", op,
        what, m, m.stride);
  return m.dtype;
}

void matrix(const char* op, const char* what, const MatrixView& m, DType dtype, int64_t rows,
            int64_t cols) {
  activation(op, what, m);
  check(m.dtype == dtype && m.rows == rows && m.cols == cols, "{}: {} is {}, expected {} ({}, {})",
        op, what, m, name(dtype), rows, cols);
}

void tensor(const char* op, const char* what, const TensorView& t, DType dtype,
            const Shape& shape) {
  check(t.data != nullptr || shape.elements() == 0, "{}: {} is null", op, what);
  check(t.dtype == dtype && t.shape == shape, "{}: {} is {}, expected {} {}", op, what, t,
        name(dtype), shape);
}

void weight_tensor(const char* op, const char* what, const TensorView& t, const Shape& shape) {
  check(t.data != nullptr, "{}: {} is null", op, what);
  check(is_storage(t.dtype) && t.shape == shape, "{}: {} is {}, expected F32, BF16 or F16 {}", op,
        what, t, shape);
}

// A weight of runs of columns.
void norm_weight(const char* op, const TensorView& t, int64_t cols) {
  const int64_t C = t.elements();
  check(C > 0 && cols % C == 0, "{}: weight is {}, x has {} columns", op, t, cols);
  weight_tensor(op, "weight", t, {C});
}

void at_most(const char* op, const char* what, int64_t value, int64_t limit) {
  check(value <= limit, "{}: {} is {}, above the limit {} given at construction", op, what, value,
        limit);
}

void lora(const char* op, const LoraView& l, int64_t in, int64_t out, bool backward,
          const OpsLimits& limits) {
  check(l.a.shape.rank() == 2, "{}: lora A is {}, expected a matrix", op, l.a);
  const int64_t R = l.a.shape[0];
  check(R > 0, "{}: lora rank is 0", op);
  at_most(op, "lora rank", R, limits.rank);
  tensor(op, "lora A", l.a, DType::F32, {R, in});
  tensor(op, "lora B", l.b, DType::F32, {out, R});
  check(l.dropout >= 0 && l.dropout < 1, "{}: lora dropout is {}, expected [0, 1)", op, l.dropout);
  check(l.first_row >= 0, "{}: lora first row is {}", op, l.first_row);
  if (l.magnitude) {
    check(limits.dora, "{}: a lora magnitude, but the limits have none", op);
    tensor(op, "lora magnitude", l.magnitude, DType::F32, {out});
    tensor(op, "lora norm", l.norm, DType::F32, {out});
  }
  if (!backward) return;
  check((l.da.data != nullptr) == (l.db.data != nullptr),
        "{}: lora dA and dB must both be given or both null", op);
  if (!l.da) return;
  tensor(op, "lora dA", l.da, DType::F32, {R, in});
  tensor(op, "lora dB", l.db, DType::F32, {out, R});
  if (l.magnitude) tensor(op, "lora d_magnitude", l.d_magnitude, DType::F32, {out});
}

// Parts share the input width I; returns the sum of their output widths.
int64_t linear_parts(const char* op, std::span<const LinearPart> parts, int64_t I, bool backward,
                     const OpsLimits& limits) {
  check(!parts.empty(), "{}: no parts", op);
  at_most(op, "input width", I, limits.width);
  int64_t total = 0;
  for (const LinearPart& part : parts) {
    check(part.weight.shape.rank() == 2, "{}: weight is {}, expected a matrix", op, part.weight);
    const int64_t O = part.out();
    check(O > 0, "{}: weight is {}", op, part.weight);
    weight_tensor(op, "weight", part.weight, part.transposed ? Shape{I, O} : Shape{O, I});
    if (part.bias) weight_tensor(op, "bias", part.bias, {O});
    if (part.lora != nullptr) lora(op, *part.lora, I, O, backward, limits);
    at_most(op, "output width", O, limits.width);
    total += O;
  }
  return total;
}

void attention_inputs(const char* op, const MatrixView& q, const MatrixView& k, const MatrixView& v,
                      const TensorView& sequences, const AttentionShape& s,
                      const OpsLimits& limits) {
  check(s.H > 0 && s.Hkv > 0 && s.H % s.Hkv == 0 && s.D > 0 && s.window >= 0,
        "{}: {} query heads, {} key-value heads of size {}, window {}", op, s.H, s.Hkv, s.D,
        s.window);
  const DType X = activation(op, "q", q);
  matrix(op, "q", q, X, q.rows, s.H * s.D);
  matrix(op, "k", k, X, k.rows, s.Hkv * s.D);
  matrix(op, "v", v, X, k.rows, s.Hkv * s.D);
  check(sequences.shape.rank() == 2, "{}: sequences is {}, expected (S, 4)", op, sequences);
  tensor(op, "sequences", sequences, DType::I32, {sequences.shape[0], 4});
  at_most(op, "number of query rows", q.rows, limits.tokens);
  at_most(op, "number of query heads", s.H, limits.heads);
  at_most(op, "head size", s.D, limits.head_size);
}

int64_t head_rows(const char* op, const HeadState& state) {
  const int64_t N = state.max.elements();
  tensor(op, "state.max", state.max, DType::F32, {N});
  tensor(op, "state.sum", state.sum, DType::F32, {N});
  tensor(op, "state.target_logit", state.target_logit, DType::F32, {N});
  check((state.acc.data != nullptr) == (state.target_rows.data != nullptr),
        "{}: state.acc and state.target_rows must both be given or both null", op);
  if (!state.acc) return N;
  check(
      state.acc.shape.rank() == 2 && state.acc.shape[1] > 0 && is_storage(state.target_rows.dtype),
      "{}: state.acc is {}, state.target_rows {}", op, state.acc, state.target_rows);
  const int64_t C = state.acc.shape[1];
  tensor(op, "state.acc", state.acc, DType::F32, {N, C});
  tensor(op, "state.target_rows", state.target_rows, state.target_rows.dtype, {N, C});
  return N;
}

// d`name` and its twins: all of x's dtype and shape.
void alike(const char* op, std::initializer_list<std::pair<const char*, const MatrixView*>> others,
           const MatrixView& x) {
  const DType X = activation(op, "x", x);
  for (const auto& [what, m] : others) matrix(op, what, *m, X, x.rows, x.cols);
}

}  // namespace

void linear(const MatrixView& y, const MatrixView& x, std::span<const LinearPart> parts,
            const OpsLimits& limits) {
  const char* op = "linear";
  const DType X = activation(op, "x", x);
  const int64_t O = linear_parts(op, parts, x.cols, false, limits);
  matrix(op, "y", y, y.dtype == DType::F32 ? DType::F32 : X, x.rows, O);
  at_most(op, "number of rows", x.rows, limits.rows);
}

void linear_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x,
                     std::span<const LinearPart> parts, const OpsLimits& limits) {
  const char* op = "linear_backward";
  const DType X = activation(op, "x", x);
  const int64_t O = linear_parts(op, parts, x.cols, true, limits);
  matrix(op, "dy", dy, X, x.rows, O);
  if (dx) matrix(op, "dx", dx, X, x.rows, x.cols);
  at_most(op, "number of rows", x.rows, limits.rows);
}

void lora_norm(const TensorView& norm, const LinearPart& part, const OpsLimits& limits) {
  const char* op = "lora_norm";
  check(part.lora != nullptr, "{}: no adapter", op);
  const int64_t O = linear_parts(op, {&part, 1}, part.in(), false, limits);
  tensor(op, "norm", norm, DType::F32, {O});
}

void rmsnorm(const MatrixView& y, const MatrixView& x, const TensorView& weight) {
  alike("rmsnorm", {{"y", &y}}, x);
  norm_weight("rmsnorm", weight, x.cols);
}

void rmsnorm_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x,
                      const TensorView& weight) {
  alike("rmsnorm_backward", {{"dx", &dx}, {"dy", &dy}}, x);
  norm_weight("rmsnorm_backward", weight, x.cols);
}

void layernorm(const MatrixView& y, const MatrixView& x, const TensorView& weight,
               const TensorView& bias) {
  alike("layernorm", {{"y", &y}}, x);
  weight_tensor("layernorm", "weight", weight, {x.cols});
  weight_tensor("layernorm", "bias", bias, {x.cols});
}

void layernorm_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x,
                        const TensorView& weight) {
  alike("layernorm_backward", {{"dx", &dx}, {"dy", &dy}}, x);
  weight_tensor("layernorm_backward", "weight", weight, {x.cols});
}

void rope(const MatrixView& x, const TensorView& positions, const TensorView& table,
          int64_t head_size) {
  const char* op = "rope";
  activation(op, "x", x);
  tensor(op, "positions", positions, DType::I32, {x.rows});
  check(head_size > 0 && x.cols % head_size == 0, "{}: x has {} columns, heads of {}", op, x.cols,
        head_size);
  check(table.shape.rank() == 2, "{}: table is {}, expected a matrix", op, table);
  const int64_t P = table.shape[1];
  check(P > 0 && P <= head_size && P % 2 == 0, "{}: table is {}, heads of {}", op, table,
        head_size);
  tensor(op, "table", table, DType::F32, {table.shape[0], P});
}

void attention(const MatrixView& o, const TensorView& lse, const MatrixView& q, const MatrixView& k,
               const MatrixView& v, const TensorView& sequences, const AttentionShape& shape,
               const OpsLimits& limits) {
  attention_inputs("attention", q, k, v, sequences, shape, limits);
  matrix("attention", "o", o, q.dtype, q.rows, q.cols);
  if (lse) tensor("attention", "lse", lse, DType::F32, {q.rows, shape.H});
}

void attention_backward(const MatrixView& dq, const MatrixView& dk, const MatrixView& dv,
                        const MatrixView& d_o, const MatrixView& o, const TensorView& lse,
                        const MatrixView& q, const MatrixView& k, const MatrixView& v,
                        const TensorView& sequences, const AttentionShape& shape,
                        const OpsLimits& limits) {
  const char* op = "attention_backward";
  attention_inputs(op, q, k, v, sequences, shape, limits);
  for (const auto& [what, m] : {std::pair{"dq", &dq}, {"d_o", &d_o}, {"o", &o}})
    matrix(op, what, *m, q.dtype, q.rows, q.cols);
  for (const auto& [what, m] : {std::pair{"dk", &dk}, {"dv", &dv}})
    matrix(op, what, *m, k.dtype, k.rows, k.cols);
  tensor(op, "lse", lse, DType::F32, {q.rows, shape.H});
}

void swiglu(const MatrixView& y, const MatrixView& gate_up) {
  const DType X = activation("swiglu", "y", y);
  matrix("swiglu", "gate_up", gate_up, X, y.rows, 2 * y.cols);
}

void swiglu_backward(const MatrixView& d_gate_up, const MatrixView& dy, const MatrixView& gate_up) {
  const DType X = activation("swiglu_backward", "dy", dy);
  matrix("swiglu_backward", "gate_up", gate_up, X, dy.rows, 2 * dy.cols);
  matrix("swiglu_backward", "d_gate_up", d_gate_up, X, dy.rows, 2 * dy.cols);
}

void gelu(const MatrixView& y, const MatrixView& x) { alike("gelu", {{"y", &y}}, x); }

void gelu_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x) {
  alike("gelu_backward", {{"dx", &dx}, {"dy", &dy}}, x);
}

void add(const MatrixView& y, const MatrixView& a, const MatrixView& b) {
  const DType X = activation("add", "y", y);
  matrix("add", "a", a, X, y.rows, y.cols);
  matrix("add", "b", b, X, y.rows, y.cols);
}

void embedding(const MatrixView& y, const TensorView& ids, const TensorView& table) {
  activation("embedding", "y", y);
  tensor("embedding", "ids", ids, DType::I32, {y.rows});
  check(table.shape.rank() == 2, "embedding: table is {}, expected a matrix", table);
  weight_tensor("embedding", "table", table, {table.shape[0], y.cols});
}

void embedding_backward(const TensorView& d_table, const TensorView& ids, const MatrixView& dy) {
  const char* op = "embedding_backward";
  activation(op, "dy", dy);
  tensor(op, "ids", ids, DType::I32, {dy.rows});
  check(d_table.shape.rank() == 2, "{}: d_table is {}, expected a matrix", op, d_table);
  tensor(op, "d_table", d_table, DType::F32, {d_table.shape[0], dy.cols});
}

void scatter_rows(const MatrixView& y, const MatrixView& x, const TensorView& rows) {
  const DType X = activation("scatter_rows", "x", x);
  matrix("scatter_rows", "y", y, X, y.rows, x.cols);
  tensor("scatter_rows", "rows", rows, DType::I32, {x.rows});
}

void head_begin(const HeadState& state, const OpsLimits& limits) {
  at_most("head_begin", "number of rows", head_rows("head_begin", state), limits.rows);
}

void head_chunk(const HeadState& state, const MatrixView& x, const TensorView& weight,
                int64_t v_begin, const TensorView& targets, const OpsLimits& limits) {
  const char* op = "head_chunk";
  const int64_t N = head_rows(op, state);
  const DType X = activation(op, "x", x);
  check(x.rows == N, "{}: x is {}, the state holds {} rows", op, x, N);
  if (state.acc) {
    tensor(op, "state.acc", state.acc, DType::F32, {N, x.cols});
    tensor(op, "state.target_rows", state.target_rows, X, {N, x.cols});
  }
  check(weight.shape.rank() == 2, "{}: weight is {}, expected a matrix", op, weight);
  weight_tensor(op, "weight", weight, {weight.shape[0], x.cols});
  check(v_begin >= 0, "{}: v_begin is {}", op, v_begin);
  tensor(op, "targets", targets, DType::I32, {N});
  at_most(op, "number of rows", N, limits.rows);
  at_most(op, "number of vocabulary rows", weight.shape[0], limits.vocab_chunk);
  at_most(op, "width", x.cols, limits.width);
}

void head_finish(const TensorView& loss, const MatrixView& dx, const HeadState& state) {
  const char* op = "head_finish";
  const int64_t N = head_rows(op, state);
  tensor(op, "loss", loss, DType::F32, {N});
  if (!dx) return;
  check(static_cast<bool>(state.acc), "{}: dx wanted, but the state has no acc", op);
  matrix(op, "dx", dx, state.target_rows.dtype, N, state.acc.shape[1]);
}

void head_weight_backward(const TensorView& d_weight, const HeadState& state, const MatrixView& x,
                          const TensorView& weight, int64_t v_begin, const TensorView& targets,
                          const OpsLimits& limits) {
  head_chunk(state, x, weight, v_begin, targets, limits);
  const char* op = "head_weight_backward";
  check(d_weight.shape.rank() == 2 && d_weight.shape[1] <= x.cols,
        "{}: d_weight is {}, expected at most {} columns", op, d_weight, x.cols);
  tensor(op, "d_weight", d_weight, DType::F32, {weight.shape[0], d_weight.shape[1]});
}

void squared_norm(const TensorView& out, const TensorView& x) {
  tensor("squared_norm", "out", out, DType::F32, {1});
  tensor("squared_norm", "x", x, DType::F32, x.shape);
}

void adamw(const TensorView& param, const TensorView& grad, const TensorView& moment1,
           const TensorView& moment2, const TensorView& squared_norm, const AdamWStep& step) {
  const char* op = "adamw";
  tensor(op, "param", param, DType::F32, param.shape);
  tensor(op, "grad", grad, DType::F32, param.shape);
  tensor(op, "moment1", moment1, DType::F32, param.shape);
  tensor(op, "moment2", moment2, DType::F32, param.shape);
  check(step.step >= 1, "{}: step is {}, expected at least 1", op, step.step);
  check(step.clip >= 0, "{}: clip is {}", op, step.clip);
  if (step.clip > 0 || squared_norm) tensor(op, "squared_norm", squared_norm, DType::F32, {1});
}

void fill(const TensorView& x) {
  check(x.data != nullptr || x.elements() == 0, "fill: x is null");
  check(is_storage(x.dtype), "fill: x is {}, expected F32, BF16 or F16", x);
}

}  // namespace lema::checks
