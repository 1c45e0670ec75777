# Of what the programs are made, for patchflow_build_info.
#
# The commit is looked up at each build and written into one small file, which changes only when the commit does:
# patchflow_git_sha(TARGET) compiles it into a program. -DPATCHFLOW_GIT_SHA=... names it where there is no git, as in a
# container's build.
set(PATCHFLOW_GIT_SHA "" CACHE STRING "The commit, if git can't tell it")

# A version as a header's #defines tell it: "2.28.9".
function(patchflow_version_of result header)
  set(version)
  foreach(name ${ARGN})
    file(STRINGS ${header} line REGEX "^#define ${name} +[0-9]+")
    string(REGEX REPLACE "^#define ${name} +([0-9]+).*" "\\1" part "${line}")
    list(APPEND version ${part})
  endforeach()
  list(JOIN version "." version)
  set(${result} ${version} PARENT_SCOPE)
endfunction()

patchflow_version_of(PATCHFLOW_WITH_TORCH ${torch}/include/torch/headeronly/version.h
  TORCH_VERSION_MAJOR TORCH_VERSION_MINOR TORCH_VERSION_PATCH)
set(PATCHFLOW_WITH_CUDA none)
set(PATCHFLOW_WITH_NCCL none)
if(PATCHFLOW_CUDA)
  set(PATCHFLOW_WITH_CUDA ${CUDAToolkit_VERSION})
  patchflow_version_of(PATCHFLOW_WITH_NCCL ${site_packages}/nvidia/nccl/include/nccl.h NCCL_MAJOR NCCL_MINOR NCCL_PATCH)
endif()
set(PATCHFLOW_BUILD_DEFINITIONS PATCHFLOW_WITH_TORCH="${PATCHFLOW_WITH_TORCH}" PATCHFLOW_WITH_CUDA="${PATCHFLOW_WITH_CUDA}"
  PATCHFLOW_WITH_NCCL="${PATCHFLOW_WITH_NCCL}")

set(git_sha_file ${CMAKE_BINARY_DIR}/git_sha.cc)
add_custom_target(patchflow_write_git_sha
  COMMAND ${CMAKE_COMMAND} -DOUT=${git_sha_file} -DSHA=${PATCHFLOW_GIT_SHA} -P ${CMAKE_CURRENT_LIST_DIR}/WriteGitSha.cmake
  BYPRODUCTS ${git_sha_file} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} VERBATIM)

function(patchflow_git_sha target)
  target_sources(${target} PRIVATE ${git_sha_file})
  add_dependencies(${target} patchflow_write_git_sha)
endfunction()
