// main() of every GoogleTest program. Where nothing failed but something was skipped it returns what tells CTest so;
// GoogleTest's own main() calls that a success.
#include <gmock/gmock.h>

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  testing::InitGoogleMock(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  return failed || testing::UnitTest::GetInstance()->skipped_test_count() == 0 ? failed : kSkipped;
}
