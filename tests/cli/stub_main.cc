#include "cli/program.h"
#include "tests/cli/stub_operations.h"

int main(int argc, char** argv) {
  return retort::run_program({.operations = retort::stub_operations(), .version = "retort stub"}, argc, argv);
}
