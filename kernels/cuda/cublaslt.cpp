// Opens libcublasLt once and looks its functions up.
#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <string>

#include "core/error.h"

namespace lema::cuda {
namespace {

// The major version whose header this was compiled with; the interface is stable within it.
const std::string kName = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);

void* open_library() {
  for (const std::string& path : {kName, "/usr/local/cuda/lib64/" + kName})
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  fail(ErrorCode::Usage,
       "{} is not on this machine: install cuBLAS {} (CUDA toolkit, or `pip install "
       "nvidia-cublas`) and name its folder in LD_LIBRARY_PATH",
       kName, CUBLAS_VER_MAJOR);
}

template <typename Function>
void find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) fail(ErrorCode::Usage, "{} has no function {}", kName, name);
}

CublasLt open() {
  void* library = open_library();
  CublasLt f{};
  find(library, f.version, "cublasLtGetVersion");
  find(library, f.create, "cublasLtCreate");
  find(library, f.destroy, "cublasLtDestroy");
  find(library, f.create_product, "cublasLtMatmulDescCreate");
  find(library, f.destroy_product, "cublasLtMatmulDescDestroy");
  find(library, f.set_product, "cublasLtMatmulDescSetAttribute");
  find(library, f.create_layout, "cublasLtMatrixLayoutCreate");
  find(library, f.destroy_layout, "cublasLtMatrixLayoutDestroy");
  find(library, f.set_layout, "cublasLtMatrixLayoutSetAttribute");
  find(library, f.create_preference, "cublasLtMatmulPreferenceCreate");
  find(library, f.destroy_preference, "cublasLtMatmulPreferenceDestroy");
  find(library, f.set_preference, "cublasLtMatmulPreferenceSetAttribute");
  find(library, f.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(library, f.multiply, "cublasLtMatmul");
  return f;
}

}  // namespace

const CublasLt& CublasLt::load() {
  static const CublasLt functions = open();
  return functions;
}

}  // namespace lema::cuda
