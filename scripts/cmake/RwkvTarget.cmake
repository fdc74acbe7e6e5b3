# rwkv_target(NAME): the settings that every target of ours shares. Warnings stay off for imported
# targets, because CMake treats their headers as system headers.
add_library(rwkv_options INTERFACE)
target_compile_features(rwkv_options INTERFACE cxx_std_20)
target_compile_options(rwkv_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                              $<$<BOOL:${RWKV_WARNINGS_AS_ERRORS}>:-Werror>)
# GCC 12 sees overlapping copies in std::string's operator+ (GCC bug 105651) and unset members in moved
# std::optionals (GCC bug 80635).
target_compile_options(rwkv_options INTERFACE
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict;-Wno-maybe-uninitialized>)
target_include_directories(rwkv_options INTERFACE ${PROJECT_SOURCE_DIR})
if(RWKV_SANITIZE)
  # No -g: with LibTorch's headers it doubles the compile time of every file.
  target_compile_options(rwkv_options INTERFACE -fsanitize=${RWKV_SANITIZE} -fno-omit-frame-pointer
                                                -fno-sanitize-recover=all)
  target_link_options(rwkv_options INTERFACE -fsanitize=${RWKV_SANITIZE})
endif()

# LibTorch's include folder holds an fmt of its own, newer than the one that spdlog was built with. A folder
# with nothing but the system's fmt goes before it.
function(rwkv_put_system_fmt_first)
  find_path(RWKV_FMT_INCLUDE_DIR fmt/format.h REQUIRED)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/first)
  file(CREATE_LINK ${RWKV_FMT_INCLUDE_DIR}/fmt ${PROJECT_BINARY_DIR}/first/fmt SYMBOLIC)
  target_include_directories(rwkv_options SYSTEM BEFORE INTERFACE ${PROJECT_BINARY_DIR}/first)
endfunction()

function(rwkv_target name)
  target_link_libraries(${name} PRIVATE rwkv_options)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
endfunction()

# rwkv_precompile_torch(NAME): LibTorch's header is compiled once for all targets (half a minute), which halves the
# time of every file. All of them therefore share its flags: OpenMP, without which at::parallel_for is
# silently serial, and -fPIC also for programs.
function(rwkv_precompile_torch name)
  if(NOT TARGET rwkv_torch_header)
    file(WRITE ${PROJECT_BINARY_DIR}/torch_header.cpp "")
    add_library(rwkv_torch_header OBJECT ${PROJECT_BINARY_DIR}/torch_header.cpp)
    target_link_libraries(rwkv_torch_header PRIVATE LibTorch::cpu OpenMP::OpenMP_CXX)
    rwkv_target(rwkv_torch_header)
    target_precompile_headers(rwkv_torch_header PRIVATE <torch/torch.h>)
  endif()
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIC)
  target_link_libraries(${name} PRIVATE OpenMP::OpenMP_CXX)
  target_precompile_headers(${name} REUSE_FROM rwkv_torch_header)
endfunction()

# rwkv_library(NAME FOLDER): a shared library with alias rwkv::FOLDER. Shared, because a static
# library drops operator registrations that nothing refers to.
function(rwkv_library name alias)
  add_library(${name} SHARED ${ARGN})
  add_library(rwkv::${alias} ALIAS ${name})
  rwkv_target(${name})
  target_compile_features(${name} INTERFACE cxx_std_20)
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${alias})
endfunction()
