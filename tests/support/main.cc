// main() of every GoogleTest program. GoogleTest's own calls it a success when tests were skipped, or none was found.
#include <gmock/gmock.h>

#include <cstdio>

int main(int argc, char** argv) {
  // RetortModule.cmake tells CTest this number. Not by the text "SKIPPED": CTest would then pass over failures too.
  constexpr int kSkipped = 125;
  testing::InitGoogleMock(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  const auto& run = *testing::UnitTest::GetInstance();
  if (run.test_to_run_count() == 0) {
    std::fprintf(stderr, "No test has such a name.\n");
    return 1;
  }
  return failed || run.skipped_test_count() == 0 ? failed : kSkipped;
}
