#include <cstdio>
#include <cstdlib>

#include "cli/program.h"

// Ends without the destructors of what is global: LibTorch's tables of operators take a tenth of a second to go. But
// for the search for leaks, which runs at the end.
int main(int argc, char** argv) {
  const int code = retort::run_program(
      {.operations = retort::operations(), .version = RETORT_VERSION_TEXT, .with_torch = RETORT_WITH_TORCH}, argc,
      argv);
#ifndef __SANITIZE_ADDRESS__
  std::fflush(nullptr);
  std::_Exit(code);
#endif
  return code;
}
