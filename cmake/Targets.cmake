# patchflow_library(NAME SOURCES ... DEPS ... [TORCH])   one static library per folder, target patchflow_<NAME>
# patchflow_program(NAME SOURCES ... DEPS ...)           a program in build/bin
# patchflow_test(FILE DEPS ... [LABELS ...] [TIMEOUT s]) tests/<folder>/<file>_test.cc -> test <folder>/<file>, labelled
#                                                        cpu unless LABELS has gpu1 or gpu2, and sanitize without TORCH

add_library(patchflow_flags INTERFACE)
target_compile_options(patchflow_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra> $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
target_include_directories(patchflow_flags INTERFACE ${CMAKE_SOURCE_DIR})
if(PATCHFLOW_SANITIZE)
  target_compile_options(patchflow_flags INTERFACE -fsanitize=${PATCHFLOW_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(patchflow_flags INTERFACE -fsanitize=${PATCHFLOW_SANITIZE})
else()
  # A broken memory ends the process instead of obeying: tests/system/test_hardening.py. -U, as Ubuntu's compiler has a level.
  # Level 3 also knows sizes that are computed, from GCC 12 and Clang 9 on; before, glibc warns that it is taken for 2.
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_FLAGS "-O1 -Werror -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3")
  check_cxx_source_compiles("#include <cstring>\nint main() {}" PATCHFLOW_FORTIFIES_COMPUTED_SIZES)
  unset(CMAKE_REQUIRED_FLAGS)
  set(level $<IF:$<BOOL:${PATCHFLOW_FORTIFIES_COMPUTED_SIZES}>,3,2>)
  foreach(option -fstack-protector-strong -fstack-clash-protection -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=${level})
    target_compile_options(patchflow_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${option}>)
  endforeach()
  target_link_options(patchflow_flags INTERFACE -Wl,-z,relro -Wl,-z,now)
endif()

# ATen takes 9 s a file without this header and 2 s with it.
add_library(patchflow_aten OBJECT ${CMAKE_SOURCE_DIR}/cmake/aten_pch.cc)
target_link_libraries(patchflow_aten PRIVATE patchflow_flags torch_cuda)
target_precompile_headers(patchflow_aten PRIVATE <ATen/ATen.h>)

# For programs: -fPIE, which CMake gives them, would make the header of the libraries unusable.
function(patchflow_reuse_aten program)
  set_target_properties(${program} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${program} PRIVATE -fPIC)
  target_precompile_headers(${program} REUSE_FROM patchflow_aten)
endfunction()

function(patchflow_library name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_library(patchflow_${name} STATIC ${arg_SOURCES})
  target_link_libraries(patchflow_${name} PUBLIC ${arg_DEPS} PRIVATE patchflow_flags)
  target_include_directories(patchflow_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  if(arg_TORCH)
    target_link_libraries(patchflow_${name} PUBLIC torch_cuda)
    target_precompile_headers(patchflow_${name} REUSE_FROM patchflow_aten)
  endif()
endfunction()

function(patchflow_program name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} patchflow_flags)
  if(arg_TORCH)
    target_link_libraries(${name} PRIVATE torch_cuda)
    patchflow_reuse_aten(${name})
  endif()
endfunction()

# The tests that are labelled so, to be run with the preset asan: those of all that reads what a client, an operator or a file
# says. LibTorch is not compiled with the sanitizers.
add_custom_target(sanitize)

# Claims spend their time in what they check, and compile a quarter to a third faster so.
set(patchflow_test_options $<$<COMPILE_LANGUAGE:CXX>:-O1>)

function(patchflow_test file)
  cmake_parse_arguments(arg "TORCH" "TIMEOUT" "DEPS;LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  string(REGEX REPLACE "_test\\.cc$" "" claim ${file})
  string(REPLACE "/" "_" target test_${claim})
  add_executable(${target} ${CMAKE_SOURCE_DIR}/tests/${file})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${target} PRIVATE ${arg_DEPS} patchflow_flags GTest::gmock_main)
  target_compile_options(${target} PRIVATE ${patchflow_test_options})
  if(arg_TORCH)
    target_link_libraries(${target} PRIVATE torch_cuda)
    patchflow_reuse_aten(${target})
  endif()
  add_test(NAME ${claim} COMMAND ${target} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT arg_LABELS MATCHES "gpu")
    list(APPEND arg_LABELS cpu)
  endif()
  if(NOT arg_TORCH)
    list(APPEND arg_LABELS sanitize)
    add_dependencies(sanitize ${target})
  endif()
  # Tests run side by side: OpenMP threads that spin while they wait would take the CPUs from the others.
  set(environment OMP_WAIT_POLICY=passive)
  if(PATCHFLOW_SANITIZE)  # Otherwise undefined behaviour is told, and the test passes.
    list(APPEND environment UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1)
  endif()
  set_tests_properties(${claim} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}"
    ENVIRONMENT "${environment}")
endfunction()
