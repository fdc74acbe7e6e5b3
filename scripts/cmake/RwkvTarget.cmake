# rwkv_target(NAME): the settings that every target of ours shares. Warnings stay off for imported
# targets, because CMake treats their headers as system headers.
add_library(rwkv_options INTERFACE)
target_compile_features(rwkv_options INTERFACE cxx_std_20)
target_compile_options(rwkv_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                              $<$<BOOL:${RWKV_WARNINGS_AS_ERRORS}>:-Werror>)
target_include_directories(rwkv_options INTERFACE ${PROJECT_SOURCE_DIR})
if(RWKV_SANITIZE)
  # No -g: with LibTorch's headers it doubles the compile time of every file.
  target_compile_options(rwkv_options INTERFACE -fsanitize=${RWKV_SANITIZE} -fno-omit-frame-pointer
                                                -fno-sanitize-recover=all)
  target_link_options(rwkv_options INTERFACE -fsanitize=${RWKV_SANITIZE})
endif()

function(rwkv_target name)
  target_link_libraries(${name} PRIVATE rwkv_options)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
endfunction()

# One precompiled header for all LibTorch sources of a target: 18 s a file without, 9 s with.
function(rwkv_precompile_torch name)
  target_precompile_headers(${name} PRIVATE <torch/torch.h>)
endfunction()

# rwkv_library(NAME FOLDER): a shared library with alias rwkv::FOLDER. Shared, because a static
# library drops operator registrations that nothing refers to.
function(rwkv_library name alias)
  add_library(${name} SHARED ${ARGN})
  add_library(rwkv::${alias} ALIAS ${name})
  rwkv_target(${name})
endfunction()
