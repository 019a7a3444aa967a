// The command line's contract, by running a program with stub operations behind it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "cli/progress.h"
#include "core/base/json.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Cli : public ::testing::Test {
 protected:
  Finished stub(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), RETORT_STUB);
    return testing::run(arguments, directory_);
  }
  bool holds_nothing() const { return fs::is_empty(directory_); }

  fs::path directory_ = testing::fresh_directory("cli");
};

struct Refusal {
  const char* name;
  std::vector<std::string> arguments;
  int code;
  std::string message;  // the whole last line
};

class CliRefusal : public Cli, public ::testing::WithParamInterface<Refusal> {};

TEST_P(CliRefusal, SaysWhatIsWrongInOneLine) {
  const Finished result = stub(GetParam().arguments);
  EXPECT_EQ(result.code, GetParam().code);
  EXPECT_EQ(result.last_error_line(), GetParam().message);
  EXPECT_EQ(result.lines_of_program(), 1);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(holds_nothing());
}

const Refusal kRefusals[] = {
    {"NoCommand", {}, 2, "retort: [usage] COMMAND: it is missing. `retort --help` lists the commands"},
    {"UnknownCommand",
     {"maek"},
     2,
     "retort: [usage] 'maek': there is no such command. The nearest is 'make'; `retort --help` lists all"},
    {"OptionBeforeCommand",
     {"--json", "make"},
     2,
     "retort: [usage] --json: a command comes first. `retort --help` lists the commands"},
    {"UnknownOption",
     {"make", "-o", "x", "--stpes", "3"},
     2,
     "retort: [make] --stpes: there is no such option. The nearest is --steps"},
    {"UnknownSharedOption",
     {"make", "--overwrit"},
     2,
     "retort: [make] --overwrit: there is no such option. The nearest is --overwrite"},
    {"AbbreviatedOption",
     {"make", "--step", "3"},
     2,
     "retort: [make] --step: there is no such option. The nearest is --steps"},
    {"MissingValue", {"make", "-o", "x", "--steps"}, 2, "retort: [make] --steps: its value is missing"},
    {"OptionAsValue", {"make", "-o", "x", "--text", "--json"}, 2, "retort: [make] --text: its value is missing"},
    {"ValueForFlag", {"make", "-o", "x", "--json=1"}, 2, "retort: [make] --json: it takes no value"},
    {"TwiceGiven", {"make", "-o", "x", "--steps", "3", "--steps", "4"}, 2, "retort: [make] --steps: it is given twice"},
    {"TooManyArguments", {"make", "-o", "x", "a", "b"}, 2, "retort: [make] 'b': one argument too many"},
    {"MissingArgument", {"score"}, 2, "retort: [score] MODEL: it is required and was not given"},
    {"MissingOutput", {"make"}, 2, "retort: [make] --output: it is required and was not given"},
    {"EmptyOutput", {"make", "-o", ""}, 2, "retort: [make] --output: the path is empty"},
    {"NoInteger", {"make", "-o", "x", "--steps", "12abc"}, 2, "retort: [make] --steps: '12abc' is not an integer"},
    {"FractionForInteger", {"make", "-o", "x", "--steps", "1.5"}, 2, "retort: [make] --steps: '1.5' is not an integer"},
    {"EmptyInteger", {"make", "-o", "x", "--steps", ""}, 2, "retort: [make] --steps: '' is not an integer"},
    {"Overflow",
     {"make", "-o", "x", "--steps", "99999999999999999999"},
     2,
     "retort: [make] --steps: '99999999999999999999' is too large"},
    {"Negative",
     {"make", "-o", "x", "--steps", "-1"},
     2,
     "retort: [make] --steps: '-1' is less than 1. Give a larger value"},
    {"NotANumber", {"make", "-o", "x", "--weight", "nan"}, 2, "retort: [make] --weight: 'nan' is not a number"},
    {"Infinite", {"make", "-o", "x", "--weight", "inf"}, 2, "retort: [make] --weight: 'inf' is not a number"},
    {"TooMuch",
     {"make", "-o", "x", "--weight", "1.5"},
     2,
     "retort: [make] --weight: '1.5' is more than 1. Give a smaller value"},
    {"NegativeSeed",
     {"make", "-o", "x", "--seed", "-4"},
     2,
     "retort: [make] --seed: '-4' is less than 0. Give a larger value"},
    {"NoThreads",
     {"make", "-o", "x", "--threads", "0"},
     2,
     "retort: [make] --threads: '0' is less than 1. Give a larger value"},
    {"NoSize",
     {"make", "-o", "x", "--memory", "8Gigs"},
     2,
     "retort: [options] --memory: '8Gigs' is not a size. Write it as 8GiB, 700MiB or 512MB"},
    {"UnknownChoice",
     {"make", "-o", "x", "--order", "activations"},
     2,
     "retort: [make] --order: 'activations' is not one of none|activation. The nearest is 'activation'"},
    {"UnknownDevice",
     {"make", "-o", "x", "--device", "gpu"},
     2,
     "retort: [make] --device: 'gpu' is no device. Give cpu, cuda or cuda:N"},
    {"DeviceWithoutEffect",
     {"make", "-o", "x", "--device", "cuda:1"},
     2,
     "retort: [make] --device: this command computes on the CPU, whatever the device. Leave it out"},
    {"Error", {"trouble", "error", "-o", "x"}, 1, "retort: [trouble] tensor 'x': it is broken. Mend it"},
    {"ErrorOfManyLines", {"trouble", "lines", "-o", "x"}, 1, "retort: [trouble] x: one retort: two"},
    {"OutOfMemory",
     {"trouble", "memory", "-o", "x"},
     1,
     "retort: [trouble] memory: there is not enough. Free some, or give --memory a smaller cap"},
    {"FileSystem", {"trouble", "files", "-o", "x"}, 1, "retort: [trouble] /nonexistent/a: No such file or directory"},
    {"StandardException", {"trouble", "standard", "-o", "x"}, 1, "retort: [trouble] unexpected error: first"},
    {"UnwritableOutput", {"make", "-o", "/proc/x/y"}, 1, "retort: [make] /proc/x: No such file or directory"},
};
INSTANTIATE_TEST_SUITE_P(All, CliRefusal, ::testing::ValuesIn(kRefusals),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Cli, PrintsVersionAndHelp) {
  EXPECT_EQ(stub({"--version"}).out, "retort stub\n");
  const Finished general = stub({"--help"});
  EXPECT_EQ(general.code, 0);
  EXPECT_THAT(general.out, HasSubstr("make        Makes a directory."));
  const Finished command = stub({"make", "--help"});
  EXPECT_EQ(command.code, 0);
  EXPECT_THAT(command.out, StartsWith("Usage: retort make [MODEL] [OPTIONS]\n"));
  EXPECT_THAT(command.out, HasSubstr("[default: 10]"));
  EXPECT_THAT(command.out, HasSubstr("--order none|activation"));
  EXPECT_THAT(command.out, HasSubstr("  -o, --output PATH           where the result goes"));
  EXPECT_EQ(command.err, "");
}

TEST_F(Cli, PassesCheckedValues) {
  const Finished result = stub({"make", "--json", "-o", "x", "--keep", "a=f16", "--keep=b=q8_0", "--cache", "2KiB",
                                "--seed", "7", "--threads", "2", "--text", "-1"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json json = parse_json(result.out, "standard output");
  EXPECT_EQ(json["params"], parse_json(R"({"text": "-1", "steps": 10, "weight": 0.5, "cache": 2048,
      "keep": ["a=f16", "b=q8_0"], "order": "none"})",
                                       "expected"));
  EXPECT_EQ(json["seed"], 7);
  EXPECT_EQ(json["threads"], 2);
  EXPECT_EQ(testing::read_file(directory_ / "x/content"), "-1 10");
}

TEST_F(Cli, PutsTextAndJsonOnStandardOutputAndMessagesOnStandardError) {
  const Finished text = stub({"make", "-o", "x"});
  EXPECT_EQ(text.out, "made nothing\n");
  EXPECT_EQ(text.err, "made it\n");
  const Finished quiet = stub({"make", "-o", "y", "--quiet"});
  EXPECT_EQ(quiet.err, "");
  const Finished verbose = stub({"make", "-o", "z", "--verbose", "--json"});
  EXPECT_THAT(verbose.err, HasSubstr("peak memory"));
  EXPECT_EQ(std::count(verbose.out.begin(), verbose.out.end(), '\n'), 1);
}

TEST_F(Cli, KeepsLeadingBlanksAndWritesNullForNotANumber) {
  EXPECT_EQ(stub({"score", "m"}).out, "  perplexity\n");
  const Json json = parse_json(stub({"score", "m", "--json", "--perplexity", "0"}).out, "standard output");
  EXPECT_TRUE(json["perplexity"].is_null());
}

TEST_F(Cli, WritesTheJsonOfACommandWithoutOutputToTheAskedFile) {
  EXPECT_EQ(stub({"score", "m", "-o", "r.json"}).code, 0);
  EXPECT_EQ(parse_json(testing::read_file(directory_ / "r.json"), "r.json")["perplexity"], 12.5);
}

TEST_F(Cli, RefusesAnExistingOutputUnlessOverwrite) {
  testing::write_file(directory_ / "x", "mine");
  const Finished refused = stub({"make", "-o", "x"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(refused.last_error_line(), "retort: [output] x: it exists. Give another --output, or --overwrite");
  EXPECT_EQ(testing::read_file(directory_ / "x"), "mine");
  EXPECT_FALSE(fs::exists(directory_ / "executions.log")) << "refused before any work";
  EXPECT_EQ(stub({"make", "-o", "x/", "--overwrite"}).code, 0);
  EXPECT_TRUE(fs::is_directory(directory_ / "x"));
}

// Nor a directory around it, however it is named.
TEST_F(Cli, NeverReplacesWhatItReads) {
  fs::create_directories(directory_ / "around/inner");
  testing::write_file(directory_ / "around/inner/m", "model");
  fs::create_symlink("around", directory_ / "link");
  for (const char* output : {"around/inner/m", "around/inner", "around/", "./around/inner/../inner"}) {
    const Finished refused = stub({"pack", "link/inner/m", "--format", "onnx", "-o", output, "--overwrite"});
    EXPECT_EQ(refused.code, 2) << output;
    EXPECT_NE(refused.last_error_line().find("which is read"), std::string::npos) << refused.err;
    EXPECT_EQ(testing::read_file(directory_ / "around/inner/m"), "model");
  }
  EXPECT_EQ(stub({"pack", "link/inner/m", "--format", "onnx", "-o", "around/inner/m2", "--overwrite"}).code, 0);
}

TEST_F(Cli, OutputsAFileOrADirectoryByFormat) {
  testing::write_file(directory_ / "m", "model");
  EXPECT_EQ(stub({"pack", "m", "--format", "gguf", "-o", "p.gguf"}).code, 0);
  EXPECT_EQ(stub({"pack", "m", "--format", "onnx", "-o", "onnx"}).code, 0);
  EXPECT_TRUE(fs::is_regular_file(directory_ / "p.gguf"));
  EXPECT_TRUE(fs::is_regular_file(directory_ / "onnx/packed"));
}

TEST_F(Cli, AnswersAFallbackWithThree) {
  const Finished result = stub({"make", "-o", "x", "--fall-back"});
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.lines_of_program(), 0);
  EXPECT_TRUE(fs::exists(directory_ / "x/content"));
}

TEST_F(Cli, ContinuesAnInterruptedCommand) {
  const std::vector<std::string> command{"train", "-o", "x", "--steps", "3"};
  for (int i = 0; i < 2; ++i) {
    const Finished interrupted = stub(command);
    EXPECT_EQ(interrupted.code, 130);
    EXPECT_THAT(interrupted.last_error_line(), StartsWith("retort: [interrupt] "));
    EXPECT_FALSE(fs::exists(directory_ / "x"));
  }
  EXPECT_EQ(stub(command).code, 0);
  EXPECT_EQ(testing::read_file(directory_ / "x/state"), "3");
  EXPECT_FALSE(fs::exists(directory_ / ".x.partial"));
}

void wait_for(const fs::path& path) {
  for (int i = 0; i < 1000 && !fs::exists(path); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_TRUE(fs::exists(path));
}

TEST_F(Cli, StopsAtASafePointOnTheFirstSignal) {
  for (const int number : {SIGINT, SIGTERM}) {
    fs::remove(directory_ / "waiting");
    testing::Process process({RETORT_STUB, "trouble", "wait", "-o", "x"}, directory_);
    wait_for(directory_ / "waiting");
    process.signal(number);
    const Finished result = process.wait();
    EXPECT_EQ(result.code, 130);
    EXPECT_EQ(result.lines_of_program(), 1);
    EXPECT_FALSE(fs::exists(directory_ / ".x.partial"));
  }
}

TEST_F(Cli, ExitsOnTheSecondSignal) {
  testing::Process process({RETORT_STUB, "trouble", "hang", "-o", "x"}, directory_);
  wait_for(directory_ / "waiting");
  process.signal(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  process.signal(SIGINT);
  EXPECT_EQ(process.wait().code, 130);
}

TEST_F(Cli, NamesAFullStandardOutputAndBearsAClosedOne) {
  const Finished full = testing::Process({RETORT_STUB, "score", "m"}, directory_, "/dev/full").wait();
  EXPECT_EQ(full.code, 1);
  EXPECT_EQ(full.last_error_line(), "retort: [output] standard output: No space left on device");
  const std::string piped = std::string("set -o pipefail; ") + RETORT_STUB + " make -o x | true";
  const Finished closed = testing::run({"/bin/bash", "-c", piped}, directory_);
  EXPECT_EQ(closed.code, 0);
  EXPECT_TRUE(fs::exists(directory_ / "x/content"));
}

TEST_F(Cli, DrawsABarOnATerminalOnly) {
  ProgressState state{"distil", "tokens", "loss 3.91", 1234, 2900, 10};
  EXPECT_EQ(progress_line(state, 0), "distil   43%  1234/2900 tokens  123 tokens/s  0:14 left  loss 3.91");
  EXPECT_EQ(progress_line(state, 10),
            "distil  [====>     ]   43%  1234/2900 tokens  123 tokens/s  0:14 left  loss 3.91");
  state = {"read", "bytes", "", 5 << 20, 0, 2};
  EXPECT_EQ(progress_line(state, 10), "read  5.0 MiB  2.5 MiB/s");
  state = {"train", "tokens", "", 2900, 2900, 0};
  EXPECT_EQ(progress_line(state, 4), "train  [====]  100%  2900/2900 tokens");
  state = {.task = "train", .unit = "tokens", .note = {}, .done = 1500, .total = 2000, .seconds = 5, .earlier = 1000};
  EXPECT_EQ(progress_line(state, 0), "train   75%  1500/2000 tokens  100 tokens/s  0:05 left")
      << "what an earlier run did is not part of the rate";
}

}  // namespace
}  // namespace retort
