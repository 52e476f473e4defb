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
}

Gemm::~Gemm() {
  for (auto& [shape, choice] : choices_) {
    if (choice.product != nullptr) library_.destroy_product(choice.product);
    for (cublasLtMatrixLayout_t layout : {choice.a, choice.b, choice.d})
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
  // The library's first operand is our b, its second our a.
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
  const auto layout = [&](cublasLtMatrixLayout_t& out, DType dtype, int64_t rows, int64_t cols,
                          int64_t stride) {
    check_library(library_.create_layout(&out, library_type(dtype), static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(cols), stride),
                  "describing a matrix");
  };
  layout(c.b, s.ab, s.b_transposed ? s.K : s.N, s.b_transposed ? s.N : s.K, s.b_stride);
  layout(c.a, s.ab, s.a_transposed ? s.M : s.K, s.a_transposed ? s.K : s.M, s.a_stride);
  layout(c.d, s.d, s.N, s.M, s.d_stride);

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
      library_.heuristic(handle_, c.product, c.b, c.a, c.d, c.d, preference, 1, &result, &count);
  library_.destroy_preference(preference);
  c.found = status == CUBLAS_STATUS_SUCCESS && count == 1 && result.state == CUBLAS_STATUS_SUCCESS;
  c.algorithm = result.algo;
  return c;
}

void Gemm::run(const Product& p) {
  if (p.d.rows == 0 || p.d.cols == 0) return;
  check(p.b.dtype == p.a.dtype && (p.d.dtype == p.a.dtype || p.d.dtype == DType::F32),
        "a product of {} and {} into {}", name(p.a.dtype), name(p.b.dtype), name(p.d.dtype));
  const cudaStream_t stream = device_.stream(Queue::Compute);
  if (!suits_library(p)) return plain_product(stream, p);
  const Shape shape = {p.d.rows,       p.d.cols,       p.K,         p.d.stride,
                       p.a.stride,     p.b.stride,     p.d.dtype,   p.a.dtype,
                       p.a.transposed, p.b.transposed, p.beta != 0, p.bias != nullptr};
  auto found = choices_.find(shape);
  if (found == choices_.end()) found = choices_.emplace(shape, choose(shape)).first;
  const Choice& c = found->second;
  if (!c.found) return plain_product(stream, p);
  if (p.bias != nullptr)
    check_library(
        library_.set_product(c.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof(p.bias)),
        "naming a bias");
  const cublasStatus_t status = library_.multiply(
      handle_, c.product, &p.alpha, p.b.data, c.b, p.a.data, c.a, &p.beta, p.d.data, c.d, p.d.data,
      c.d, &c.algorithm, workspace_.data(), kWorkspaceBytes, stream);
  check(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: product of ({}, {}) by ({}, {}): status {}",
        p.d.rows, p.K, p.K, p.d.cols, static_cast<int>(status));
}

}  // namespace lema::cuda
