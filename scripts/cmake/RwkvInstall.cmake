# cmake --install BUILD --prefix PREFIX: the program in bin, its libraries in lib, and what an outside program needs to
# embed a model: headers in include/rwkv (so that names like model/ and data/ clash with nobody's) and a CMake package
# with the targets rwkv::model, rwkv::formats, rwkv::ops and rwkv::data. The prefix may be moved as a whole.
include(CMakePackageConfigHelpers)

set(_rwkv_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/rwkv)
set(_rwkv_embedded rwkv_data rwkv_ops rwkv_formats rwkv_model)
set(_rwkv_internal rwkv_config rwkv_report rwkv_trainer)

# Program and libraries find each other by their places relative to each other, and LibTorch where this build found it.
get_filename_component(RWKV_LIBTORCH_ROOT "${LibTorchCpu_INCLUDE_DIR}" DIRECTORY)
get_filename_component(_torch_lib_dir "${LibTorchCpu_LIBRARY}" DIRECTORY)
file(RELATIVE_PATH _lib_from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
set_target_properties(${_rwkv_embedded} ${_rwkv_internal} PROPERTIES INSTALL_RPATH "$ORIGIN;${_torch_lib_dir}")
set_target_properties(rwkv PROPERTIES INSTALL_RPATH "$ORIGIN/${_lib_from_bin};${_torch_lib_dir}")

install(TARGETS rwkv RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ${_rwkv_internal} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS ${_rwkv_embedded} EXPORT rwkv LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rwkv)
install(EXPORT rwkv NAMESPACE rwkv:: FILE rwkv-targets.cmake DESTINATION ${_rwkv_package_dir})

install(DIRECTORY data model DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rwkv FILES_MATCHING PATTERN "*.h")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES cuda/inference.h cuda/layers.h cuda/ops.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rwkv/cuda)

configure_package_config_file(scripts/cmake/rwkv-config.cmake.in ${PROJECT_BINARY_DIR}/package/rwkv-config.cmake
                              INSTALL_DESTINATION ${_rwkv_package_dir} NO_SET_AND_CHECK_MACRO
                              NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/rwkv-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/package/rwkv-config.cmake
              ${PROJECT_BINARY_DIR}/package/rwkv-config-version.cmake scripts/cmake/FindLibTorchCpu.cmake
        DESTINATION ${_rwkv_package_dir})
