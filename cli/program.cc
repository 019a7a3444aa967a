#include "cli/program.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/replaceable.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"
#include "recipes/staged_run.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

volatile sig_atomic_t g_signals = 0;

// The first signal asks the command to stop at its next safe point, the second one stops it here.
extern "C" void stop_on_signal(int) {
  if (g_signals != 0) ::_exit(kInterrupted);
  g_signals = 1;
  request_interrupt();
}

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = stop_on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);  // a reader that has seen enough must not end a job of hours
  ::signal(SIGXFSZ, SIG_IGN);  // a limit on the size of files is an error like a full disk
}

void print(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
                       std::fputc('\n', stdout) != EOF && std::fflush(stdout) == 0;
  if (!written && errno != EPIPE) fail("output", "standard output", std::strerror(errno));
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void check_device(const CommandLine& line, const std::string& device) {
  const Operation& operation = *line.operation;
  if (!is_device(device))
    fail_usage(operation.name, "--device", "'" + device + "' is no device", "Give cpu, cuda or cuda:N");
  if (device != "cpu" && !operation.on_device)
    fail_usage(operation.name, "--device", "this command computes on the CPU, whatever the device", "Leave it out");
  if (device == "cpu" || operation.unheeded == nullptr) return;
  if (const std::string reason = operation.unheeded(line.params, "device"); !reason.empty())
    fail_usage(operation.name, "--device", reason, "Leave it out");
}

std::string output_path(const CommandLine& line) {
  const OutputKind kind = line.operation->output;
  if (line.shared.has("output") && !line.shared.text("output").empty())
    return fs::path(line.shared.text("output")).lexically_normal().string();
  if (line.shared.has("output") || (kind != OutputKind::kNone && kind != OutputKind::kWorkspace))
    fail_usage(line.operation->name, "--output",
               line.shared.has("output") ? "the path is empty" : "it is required and was not given");
  return {};
}

// What is overwritten goes as a whole: never what the command reads, or a directory around that.
void refuse_own_input(const CommandLine& line, const std::filesystem::path& output) {
  // Without the '/' at its end: what lies there now may be a file.
  const fs::path target = fs::weakly_canonical(output.has_filename() ? output : output.parent_path());
  for (const ParamSpec& spec : line.operation->params) {
    if (spec.type != ParamType::kModel && spec.type != ParamType::kFile) continue;
    const std::filesystem::path given = line.params.has(spec.name) ? line.params.path(spec.name) : "";
    if (given.empty()) continue;
    const std::filesystem::path input = std::filesystem::weakly_canonical(given);
    if (std::ranges::mismatch(target, input).in1 == target.end())
      fail_usage(line.operation->name, "--output",
                 output.string() + " would take the place of " + given.string() + ", which is read",
                 "Give another --output");
  }
}

// A GGUF model lies in a directory where an option or the '/' at the end of the path asks for that.
StagedOutput::Kind kind_of(const CommandLine& line, const std::string& path) {
  using Kind = StagedOutput::Kind;
  const Operation& operation = *line.operation;
  if (operation.output == OutputKind::kNone) return Kind::kFile;
  if (operation.output == OutputKind::kByFormat && path.ends_with('/')) return Kind::kDirectory;
  const std::string option(option_of_directory(line.params));
  if (!option.empty() && path.ends_with(".gguf"))
    fail_usage(operation.name, "--output", "with --" + option + " it is a directory, and " + path + " names a file",
               "Give a directory, such as " + fs::path(path).replace_extension().string());
  return writes_directory(operation, line.params) ? Kind::kDirectory : Kind::kFile;
}

// Runs the command and puts its output in place.
OperationResult execute(const CommandLine& line, Context& context) {
  const Operation& operation = *line.operation;
  const std::string path = output_path(line);
  if (path.empty() || operation.output == OutputKind::kWorkspace) return operation.run(line.params, path, context);
  const StagedOutput::Kind kind = kind_of(line, path);
  if (line.shared.flag("overwrite")) {
    refuse_own_input(line, path);
    require_replaceable(path);
  }
  StagedOutput output(path, kind, line.shared.flag("overwrite"), operation.resumable);
  OperationResult result;
  if (operation.output == OutputKind::kNone) {
    result = operation.run(line.params, {}, context);
    write_text_file(output.staging(), dump(result.json) + "\n");
  } else {
    result = run_into(operation, line.params, output, output.staging(), context);
  }
  output.commit();
  return result;
}

void report(const CommandLine& line, const OperationResult& result, ProgressSink& progress) {
  if (!result.as_asked) progress.message("finished, but not as asked: the result says where");
  if (line.shared.flag("json"))
    print(dump(result.json));
  else if (!result.text.empty() || line.operation->output == OutputKind::kNone)
    print(result.text);
}

int run_command(const CommandLine& line) {
  const Params& shared = line.shared;
  const auto started = std::chrono::steady_clock::now();
  ThreadPool threads(shared.has("threads") ? static_cast<int>(shared.integer("threads")) : 0);
  TerminalProgress progress(stderr, shared.flag("quiet"));
  Context context{threads, progress};
  context.memory_limit = shared.has("memory") ? static_cast<uint64_t>(shared.integer("memory")) : 0;
  context.seed = static_cast<uint64_t>(shared.integer("seed"));
  context.device = shared.text("device");
  check_device(line, context.device);
  if (shared.flag("verbose"))
    progress.message(fmt::format("{}: device {}, {} threads, seed {}", line.operation->name, context.device,
                                 threads.size(), context.seed));
  const OperationResult result = execute(line, context);
  if (shared.flag("verbose")) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    progress.message(fmt::format("{}: {:.2f} s, peak memory {}", line.operation->name, seconds.count(),
                                 format_bytes(peak_resident_bytes())));
  }
  report(line, result, progress);
  return result.as_asked ? kDone : kNotAsAsked;
}

// Goes on as the program of that name beside this one.
[[noreturn]] void become(const char* name, char** argv) {
  const fs::path path = fs::read_symlink("/proc/self/exe").parent_path() / name;
  ::execv(path.c_str(), argv);
  fail("start", path.string(), std::strerror(errno), "It belongs beside this program: install both");
}

int dispatch(const Program& program, const std::vector<std::string>& arguments, char** argv) {
  if (arguments.empty()) fail_usage("usage", "COMMAND", "it is missing", "`retort --help` lists the commands");
  const std::string& first = arguments.front();
  if (first == "--version" || first == "--help" || first == "-h") {
    print(first == "--version" ? program.version : program_help(program.operations));
    return kDone;
  }
  if (first.starts_with('-')) fail_usage("usage", first, "a command comes first", "`retort --help` lists the commands");
  const CommandLine line = parse_command_line(program.operations, arguments);
  if (line.help) {
    print(command_help(*line.operation));
    return kDone;
  }
  const auto needs_torch = line.operation->needs_torch;
  if (program.with_torch != nullptr && needs_torch != nullptr && needs_torch(line.params))
    become(program.with_torch, argv);
  return run_command(line);
}

// The one line that begins with "retort:", whatever the message holds.
int complain(int code, std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "retort: %s\n", message.c_str());
  std::fflush(stderr);
  return code;
}

std::string first_line(const char* text) {
  const std::string_view whole(text);
  return std::string(whole.substr(0, whole.find('\n')));
}

int exit_code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage: return kWrongUsage;
    case ErrorKind::kInterrupted: return kInterrupted;
    case ErrorKind::kFailed: break;
  }
  return kFailed;
}

}  // namespace

int run_program(const Program& program, int argc, char** argv) {
  install_signal_handlers();
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const std::string command = arguments.empty() ? "usage" : arguments.front();
  try {
    return dispatch(program, arguments, argv);
  } catch (const Error& e) {
    return complain(exit_code_of(e.kind()), e.what());
  } catch (const fs::filesystem_error& e) {
    return complain(kFailed, "[" + command + "] " + e.path1().string() + ": " + e.code().message());
  } catch (const std::bad_alloc&) {
    return complain(kFailed,
                    "[" + command + "] memory: there is not enough. Free some, or give --memory a smaller cap");
  } catch (const std::exception& e) {
    return complain(kFailed, "[" + command + "] unexpected error: " + first_line(e.what()));
  }
}

}  // namespace retort
