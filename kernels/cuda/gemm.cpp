// Row-major products in cuBLASLt's column-major terms: d^T = b^T a^T, and a row-major matrix read
// column by column is its transpose, so nothing moves.
#include "cuda/gemm.h"

#include "cuda/check.h"

namespace lema::cuda {
namespace {

void check_library(cublasStatus_t status, const char* doing) {
  check(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: {}: status {}", doing,
        static_cast<int>(status));
}

cudaDataType_t library_type(DType dtype) {
  return dtype == DType::F32 ? CUDA_R_32F : dtype == DType::BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

constexpr int64_t kAlignment = 16;  // bytes, of addresses and rows

bool is_aligned(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 &&
         stride * element_bytes(dtype) % kAlignment == 0;
}

}  // namespace

Gemm::Gemm(CudaDevice& device)
    : device_(device),
      library_(CublasLt::load()),
      workspace_(device.allocate(kWorkspaceBytes, "cuBLASLt workspace")) {
  check_library(library_.create(&handle_), "creating a handle");
  // What the library refuses in mid-run finds the plain kernel loaded.
  for (const DType ab : {DType::F32, DType::BF16, DType::F16})
    for (const DType d : {DType::F32, ab}) {
      const Operand nothing(workspace_.data(), ab, 1);
      plain_product(device_.stream(Queue::Compute),
                    {{workspace_.data(), d, 1, 1, 1}, nothing, nothing, 0});
    }
}

Gemm::~Gemm() {
  for (auto& [kind, choice] : choices_) {
    if (choice.product != nullptr) library_.destroy_product(choice.product);
    for (cublasLtMatrixLayout_t layout : choice.layouts)
      if (layout != nullptr) library_.destroy_layout(layout);
  }
  library_.destroy(handle_);
}

bool Gemm::suits_library(const Product& p) const {
  const DType ab = p.a.dtype;
  if (ab == DType::BF16 && device_.architecture() < 80) return false;
  return is_aligned(p.d.data, p.d.stride, p.d.dtype) && is_aligned(p.a.data, p.a.stride, ab) &&
         is_aligned(p.b.data, p.b.stride, ab) && is_aligned(p.bias, 0, ab);
}

Gemm::Choice Gemm::choose(const Shape& s) const {
  Choice c;
  check_library(library_.create_product(&c.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                "describing a product");
  const cublasOperation_t first = s.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                          second = s.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  check_library(library_.set_product(c.product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)),
                "describing a product");
  check_library(
      library_.set_product(c.product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)),
      "describing a product");
  if (s.has_bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = library_type(s.d);
    check_library(
        library_.set_product(c.product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)),
        "describing a bias");
    check_library(
        library_.set_product(c.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)),
        "describing a bias");
  }
  const std::array dtypes = {s.ab, s.ab, s.d};
  const std::array strides = {s.b_stride, s.a_stride, s.d_stride};
  const std::array<Size, kMatrices> of = sizes(s);
  for (size_t i = 0; i < kMatrices; ++i)
    check_library(library_.create_layout(&c.layouts[i], library_type(dtypes[i]),
                                         static_cast<uint64_t>(of[i].rows),
                                         static_cast<uint64_t>(of[i].cols), strides[i]),
                  "describing a matrix");

  cublasLtMatmulPreference_t preference = nullptr;
  check_library(library_.create_preference(&preference), "describing a choice");
  const uint64_t workspace = kWorkspaceBytes;
  // Partial sums of a split K are added in f32 in a fixed order, in the workspace.
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const uint32_t alignment = kAlignment;
  library_.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                          sizeof(workspace));
  library_.set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                          sizeof(reductions));
  for (const auto which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    library_.set_preference(preference, which, &alignment, sizeof(alignment));
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      library_.heuristic(handle_, c.product, c.layouts[0], c.layouts[1], c.layouts[2], c.layouts[2],
                         preference, 1, &result, &count);
  library_.destroy_preference(preference);
  c.found = status == CUBLAS_STATUS_SUCCESS && count == 1 && result.state == CUBLAS_STATUS_SUCCESS;
  c.algorithm = result.algo;
  return c;
}

std::array<Gemm::Size, Gemm::kMatrices> Gemm::sizes(const Shape& s) {
  return {{{s.b_transposed ? s.K : s.N, s.b_transposed ? s.N : s.K},
           {s.a_transposed ? s.M : s.K, s.a_transposed ? s.K : s.M},
           {s.N, s.M}}};
}

// The rows of a as they lie in memory are tokens. The class of a K that b has as columns may be
// more than its stride; no product of tokens has such a b.
Gemm::Shape Gemm::kind_of(Shape shape) {
  if (!shape.a_transposed)
    shape.M = row_class(shape.M);
  else if (!shape.b_transposed)
    shape.K = row_class(shape.K);
  return shape;
}

const Gemm::Choice& Gemm::choice(const Shape& kind) {
  const auto found = choices_.find(kind);
  return found != choices_.end() ? found->second
                                 : choices_.emplace(kind, choose(kind)).first->second;
}

cublasStatus_t Gemm::multiply(const Choice& c, const Product& p, const Shape& shape) const {
  const std::array<Size, kMatrices> of = sizes(shape);
  for (size_t i = 0; i < kMatrices; ++i) {
    const auto set = [&](cublasLtMatrixLayoutAttribute_t which, int64_t value) {
      check_library(library_.set_layout(c.layouts[i], which, &value, sizeof(value)),
                    "describing a matrix");
    };
    set(CUBLASLT_MATRIX_LAYOUT_ROWS, of[i].rows);
    set(CUBLASLT_MATRIX_LAYOUT_COLS, of[i].cols);
  }
  if (p.bias != nullptr)
    check_library(
        library_.set_product(c.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof(p.bias)),
        "naming a bias");
  return library_.multiply(handle_, c.product, &p.alpha, p.b.data, c.layouts[0], p.a.data,
                           c.layouts[1], &p.beta, p.d.data, c.layouts[2], p.d.data, c.layouts[2],
                           &c.algorithm, workspace_.data(), kWorkspaceBytes,
                           device_.stream(Queue::Compute));
}

void Gemm::run(const Product& p) {
  if (p.d.rows == 0 || p.d.cols == 0) return;
  check(p.b.dtype == p.a.dtype && (p.d.dtype == p.a.dtype || p.d.dtype == DType::F32),
        "a product of {} and {} into {}", name(p.a.dtype), name(p.b.dtype), name(p.d.dtype));
  if (!suits_library(p)) return plain_product(device_.stream(Queue::Compute), p);
  const Shape shape = {p.d.rows,       p.d.cols,       p.K,         p.d.stride,
                       p.a.stride,     p.b.stride,     p.d.dtype,   p.a.dtype,
                       p.a.transposed, p.b.transposed, p.beta != 0, p.bias != nullptr};
  const Choice& c = choice(kind_of(shape));
  const cublasStatus_t status = c.found ? multiply(c, p, shape) : CUBLAS_STATUS_NOT_SUPPORTED;
  check(status == CUBLAS_STATUS_SUCCESS || status == CUBLAS_STATUS_NOT_SUPPORTED,
        "cuBLASLt: product of ({}, {}) by ({}, {}): status {}", p.d.rows, p.K, p.K, p.d.cols,
        static_cast<int>(status));
  // An algorithm of its own for a size that its class's refuses would be loaded in mid-run.
  if (status != CUBLAS_STATUS_SUCCESS) plain_product(device_.stream(Queue::Compute), p);
}

}  // namespace lema::cuda
