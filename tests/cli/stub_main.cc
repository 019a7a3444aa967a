#include "cli/program.h"
#include "tests/cli/stub_operations.h"

int main(int argc, char** argv) { return retort::run_program(retort::stub_operations(), "retort stub", argc, argv); }
