# The CUDA language, and LibTorch::cuda beside the LibTorch::cpu that was found. Linking needs no more of CUDA's
# libraries than the runtime; starting a program needs all that libtorch_cuda.so wants (cuBLAS, cuDNN, NCCL).
if(RWKV_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

get_filename_component(_torch_lib "${LibTorchCpu_LIBRARY}" DIRECTORY)
find_library(LibTorchCuda_LIBRARY torch_cuda HINTS ${_torch_lib} NO_DEFAULT_PATH)
find_library(LibTorchCuda_C10_LIBRARY c10_cuda HINTS ${_torch_lib} NO_DEFAULT_PATH)
if(NOT LibTorchCuda_LIBRARY OR NOT LibTorchCuda_C10_LIBRARY)
  message(FATAL_ERROR "${_torch_lib} holds no libtorch_cuda.so: this LibTorch was built without CUDA; set "
                      "LIBTORCH_ROOT to one with CUDA, or run scripts/build cpu")
endif()

add_library(LibTorch::c10_cuda SHARED IMPORTED)
set_target_properties(LibTorch::c10_cuda PROPERTIES IMPORTED_LOCATION "${LibTorchCuda_C10_LIBRARY}")
add_library(LibTorch::cuda INTERFACE IMPORTED)
# Nothing of ours refers to libtorch_cuda.so, but it brings LibTorch's own CUDA kernels: some linkers leave out
# what nothing refers to.
target_link_libraries(
  LibTorch::cuda
  INTERFACE LibTorch::cpu LibTorch::c10_cuda CUDA::cudart
            "-Wl,--push-state,--no-as-needed,${LibTorchCuda_LIBRARY},--pop-state")
