# retort_library(NAME name SOURCES ... DEPS ... [TORCH]): one folder, one static library, dependencies stated.
function(retort_library)
  cmake_parse_arguments(arg "TORCH" "NAME" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${arg_NAME} STATIC ${arg_SOURCES})
  target_link_libraries(${arg_NAME} PUBLIC retort_options ${arg_DEPS} PRIVATE ${arg_PRIVATE_DEPS})
  if(arg_TORCH)
    retort_use_torch(${arg_NAME})
  endif()
endfunction()

# retort_torch_part(NAME folder SOURCES ... DEPS ...): what a folder computes with LibTorch, beside its library, as the
# objects NAME_torch; NAME_no_torch (no_torch.cc) stands in for them and says what is missing. A program links one of
# the two; NAME_part is the one of this build.
function(retort_torch_part)
  cmake_parse_arguments(arg "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_library(${arg_NAME}_no_torch OBJECT no_torch.cc)
  target_link_libraries(${arg_NAME}_no_torch PUBLIC retort_options ${arg_NAME})
  if(RETORT_TORCH)
    add_library(${arg_NAME}_torch OBJECT ${arg_SOURCES})
    target_link_libraries(${arg_NAME}_torch PUBLIC retort_options ${arg_NAME} ${arg_DEPS})
    retort_use_torch(${arg_NAME}_torch)
    add_library(${arg_NAME}_part ALIAS ${arg_NAME}_torch)
  else()
    add_library(${arg_NAME}_part ALIAS ${arg_NAME}_no_torch)
  endif()
endfunction()

# ATen's headers take 20 seconds a file: they come from one precompiled header, and as system headers.
function(retort_use_torch target)
  target_link_libraries(${target} PUBLIC retort::torch)
  # -fPIC in programs too: a precompiled header serves only code of the same kind. The other flags are what ccache
  # needs to cache files that use one.
  target_compile_options(${target} PRIVATE -fPIC
    $<IF:$<CXX_COMPILER_ID:Clang>,-Xclang;-fno-pch-timestamp,-fpch-preprocess>)
  if(TARGET retort_torch_pch AND NOT target STREQUAL "retort_torch_pch")
    target_precompile_headers(${target} REUSE_FROM retort_torch_pch)
  endif()
endfunction()

# retort_test(NAME name SOURCES ... DEPS ... [TORCH]): a GoogleTest program, each suite known to CTest.
# The code of the test is compiled with -O1, in two thirds of the time; what it tests keeps its flags.
function(retort_test)
  cmake_parse_arguments(arg "TORCH" "NAME" "SOURCES;DEPS" ${ARGN})
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_link_libraries(${arg_NAME} PRIVATE retort_options ${arg_DEPS} test_main)
  target_compile_definitions(${arg_NAME} PRIVATE
    RETORT_SOURCE_DIR="${PROJECT_SOURCE_DIR}" RETORT_BINARY_DIR="${PROJECT_BINARY_DIR}")
  if(arg_TORCH)
    retort_use_torch(${arg_NAME})
  else()  # Torch's precompiled header wants its own flags
    target_compile_options(${arg_NAME} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  set(suites "${CMAKE_CURRENT_BINARY_DIR}/${arg_NAME}_suites.cmake")
  string(JOIN "\n" content
    "set(program \"$<TARGET_FILE:${arg_NAME}>\")"
    "set(properties TIMEOUT 600 SKIP_RETURN_CODE 125 WORKING_DIRECTORY \"${CMAKE_CURRENT_BINARY_DIR}\")"
    "include(\"${PROJECT_SOURCE_DIR}/cmake/TestSuites.cmake\")")
  file(GENERATE OUTPUT "${suites}" CONTENT "${content}\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${suites}")
endfunction()

# retort_fuzz(NAME name SOURCES ... DEPS ... CORPUS dir): a libFuzzer target with RETORT_FUZZ, and always a test
# that runs the same entry over the corpus.
function(retort_fuzz)
  cmake_parse_arguments(arg "" "NAME;CORPUS" "SOURCES;DEPS" ${ARGN})
  if(RETORT_FUZZ)
    add_executable(${arg_NAME} ${arg_SOURCES})
    target_link_options(${arg_NAME} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(${arg_NAME} ${arg_SOURCES} "${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.cc")
    add_test(NAME ${arg_NAME}_corpus COMMAND ${arg_NAME} "${CMAKE_CURRENT_SOURCE_DIR}/${arg_CORPUS}")
    set_tests_properties(${arg_NAME}_corpus PROPERTIES TIMEOUT 300)
  endif()
  target_link_libraries(${arg_NAME} PRIVATE retort_options ${arg_DEPS})
endfunction()
