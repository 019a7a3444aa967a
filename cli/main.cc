#include "cli/program.h"

int main(int argc, char** argv) { return retort::run_program(retort::operations(), RETORT_VERSION_TEXT, argc, argv); }
