# Run by CTest, which gets to know each suite of `program`, a GoogleTest program, with these `properties`. Not each
# test: a process with LibTorch takes half a second to start and to end.
get_filename_component(name "${program}" NAME)
if(NOT EXISTS "${program}")
  add_test(${name}_NOT_BUILT ${name}_NOT_BUILT)
  return()
endif()
set(list "${program}_suites.txt")
if("${program}" IS_NEWER_THAN "${list}")  # also if there is none
  execute_process(COMMAND "${program}" --gtest_list_tests --gtest_filter=* TIMEOUT 60 OUTPUT_VARIABLE printed
    COMMAND_ERROR_IS_FATAL ANY)
  file(WRITE "${list}" "${printed}")  # only what a program that ended well has printed
endif()
file(STRINGS "${list}" suites REGEX "^[^ ]")  # the names of tests are indented
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "\\. .*|\\.$" "" suite "${suite}")
  add_test("${name}.${suite}" "${program}" "--gtest_filter=${suite}.*")
  set_tests_properties("${name}.${suite}" PROPERTIES ${properties})
endforeach()
