# Everything the project links that it does not write. Debian packages by find_package; LibTorch, NCCL, cuDNN headers,
# CUTLASS and SentencePiece from the PyPI packages that deploy/setup puts into PATCHFLOW_DEPS.

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(DEFLATE REQUIRED IMPORTED_TARGET libdeflate)
pkg_check_modules(PNG REQUIRED IMPORTED_TARGET libpng)
pkg_check_modules(JPEG REQUIRED IMPORTED_TARGET libjpeg)
pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
if(PATCHFLOW_TESTS)
  find_package(GTest REQUIRED)
endif()
find_package(benchmark REQUIRED)

file(GLOB site_packages ${PATCHFLOW_DEPS}/venv/lib/python3.*/site-packages)
if(NOT site_packages)
  message(FATAL_ERROR "No PyPI packages in ${PATCHFLOW_DEPS}: run deploy/setup first.")
endif()
set(PATCHFLOW_PYTHON ${PATCHFLOW_DEPS}/venv/bin/python3)

# LibTorch as our own imported targets: find_package(Torch) demands nvcc and chooses architectures. Its headers carry an
# old protobuf, so they come after the system's (-idirafter).
set(torch ${site_packages}/torch)
add_library(torch_cpu INTERFACE)
target_compile_options(torch_cpu INTERFACE
  "SHELL:-idirafter ${torch}/include" "SHELL:-idirafter ${torch}/include/torch/csrc/api/include")
# at::parallel_for is a template of the headers, which runs on one thread if it is compiled without OpenMP. The runtime is
# LibTorch's own: a second one would have a second pool of threads.
target_compile_options(torch_cpu INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
target_compile_definitions(torch_cpu INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
target_link_libraries(torch_cpu INTERFACE
  ${torch}/lib/libtorch_cpu.so ${torch}/lib/libc10.so ${torch}/lib/libgomp.so.1)
target_link_options(torch_cpu INTERFACE -Wl,-rpath,${torch}/lib)

set(cu13 ${site_packages}/nvidia/cu13)
if(PATCHFLOW_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES OFF)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
  else()
    message(STATUS "No nvcc: building for CPUs only.")
    set(PATCHFLOW_CUDA OFF)
  endif()
endif()
add_library(torch_cuda INTERFACE)
target_link_libraries(torch_cuda INTERFACE torch_cpu)
if(PATCHFLOW_CUDA)
  target_compile_definitions(torch_cuda INTERFACE PATCHFLOW_CUDA=1)
  target_include_directories(torch_cuda SYSTEM INTERFACE
    ${CUDAToolkit_INCLUDE_DIRS} ${site_packages}/nvidia/nccl/include ${site_packages}/nvidia/cudnn/include)
  target_link_libraries(torch_cuda INTERFACE
    -Wl,--no-as-needed ${torch}/lib/libtorch_cuda.so ${torch}/lib/libc10_cuda.so -Wl,--as-needed CUDA::cudart)
  add_library(nccl INTERFACE)
  target_include_directories(nccl SYSTEM INTERFACE ${site_packages}/nvidia/nccl/include)
  target_link_libraries(nccl INTERFACE ${site_packages}/nvidia/nccl/lib/libnccl.so.2)
  target_link_options(nccl INTERFACE -Wl,-rpath,${site_packages}/nvidia/nccl/lib)
  add_library(cutlass INTERFACE)
  target_include_directories(cutlass SYSTEM INTERFACE
    ${site_packages}/cutlass_library/source/include ${site_packages}/cutlass_library/source/tools/util/include)
endif()

# SentencePiece from its source package, against the system's protobuf (Debian's library carries an old one that aborts
# beside it). deploy/setup builds it.
add_library(sentencepiece STATIC IMPORTED)
set_target_properties(sentencepiece PROPERTIES
  IMPORTED_LOCATION ${PATCHFLOW_DEPS}/sentencepiece/lib/libsentencepiece.a
  INTERFACE_INCLUDE_DIRECTORIES ${PATCHFLOW_DEPS}/sentencepiece/include
  INTERFACE_LINK_LIBRARIES "protobuf::libprotobuf")

# google/rpc protos: no Debian package has them.
set(GOOGLEAPIS_PROTO_DIR ${site_packages})
