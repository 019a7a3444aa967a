# Run by CTest, which gets to know each suite of `program`, a GoogleTest program, with these `properties`. Not each test:
# LibTorch takes half a second whenever a process starts and ends.
get_filename_component(name "${program}" NAME)
if(NOT EXISTS "${program}")
  add_test(${name}_NOT_BUILT ${name}_NOT_BUILT)
  return()
endif()
set(list "${program}_suites.txt")
if("${program}" IS_NEWER_THAN "${list}")  # also if there is none
  execute_process(COMMAND "${program}" --gtest_list_tests OUTPUT_FILE "${list}" COMMAND_ERROR_IS_FATAL ANY)
endif()
file(STRINGS "${list}" suites REGEX "^[^ ]")  # the names of tests are indented
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "\\. .*|\\.$" "" suite "${suite}")
  add_test("${name}.${suite}" "${program}" "--gtest_filter=${suite}.*")
  set_tests_properties("${name}.${suite}" PROPERTIES ${properties})
endforeach()
