#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "cli/program.h"

// Ends without the destructors of what is global: LibTorch's tables of operators take a tenth of a second to go.
int main(int argc, char** argv) {
  const int code = retort::run_program(retort::operations(), RETORT_VERSION_TEXT, argc, argv);
  std::cout.flush();
  std::fflush(nullptr);
  std::_Exit(code);
}
