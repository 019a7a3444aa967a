#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/digest.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/in_order.h"
#include "core/base/json.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/base/thread_pool.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

fs::path fresh_directory(const char* name) {
  const fs::path path = fs::path(testing::TempDir()) / name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

// The value of an f16 pattern straight from IEEE 754's definition.
double f16_by_definition(uint16_t bits) {
  const double sign = (bits & 0x8000) ? -1 : 1;
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  if (exponent == 31) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return exponent == 0 ? sign * std::ldexp(mantissa, -24) : sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(DType, DecodesEveryF16Pattern) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double expected = f16_by_definition(static_cast<uint16_t>(bits));
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(expected))
      EXPECT_TRUE(std::isnan(value)) << bits;
    else
      EXPECT_EQ(expected, value) << bits;
  }
}

TEST(DType, RoundsToTheNearestF16) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const float a = f16_to_f32(low), b = f16_to_f32(high), middle = (a + b) / 2;
    ASSERT_EQ(f32_to_f16(a), low);
    ASSERT_EQ(f32_to_f16(middle), low % 2 == 0 ? low : high) << "ties go to the even pattern";
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, b)), high);
    ASSERT_EQ(f32_to_f16(-std::nextafter(middle, a)), low | 0x8000);
  }
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bff);
}

TEST(DType, ConvertsManyAsItConvertsOne) {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 99991)
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  for (const auto& [type, one] : {std::pair{DType::kF16, &f32_to_f16}, {DType::kBF16, &f32_to_bf16}}) {
    std::vector<std::byte> bytes(values.size() * 2);
    encode_from_f32(type, values, bytes);
    std::vector<float> back(values.size());
    decode_to_f32(type, bytes, back);
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t stored;
      std::memcpy(&stored, bytes.data() + 2 * i, 2);
      ASSERT_EQ(stored, one(values[i])) << values[i];
      const float expected = type == DType::kF16 ? f16_to_f32(stored) : bf16_to_f32(stored);
      ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), std::bit_cast<uint32_t>(expected)) << values[i];
    }
  }
}

TEST(DType, TellsWhatF16Holds) {
  std::vector<float> values(37, -0.0f);
  values[3] = 0x1p-24f, values[9] = 65504.0f, values[36] = 0.1f;
  EXPECT_FALSE(all_f16(values));
  values[36] = f16_to_f32(f32_to_f16(0.1f));
  EXPECT_TRUE(all_f16(values) && all_finite(values));
  for (const float other : {0x1p-25f, 65505.0f, 1.0f + 0x1p-11f}) {
    values[20] = other;
    EXPECT_FALSE(all_f16(values)) << other;
    EXPECT_TRUE(all_finite(values));
  }
  for (const float other : {INFINITY, -INFINITY, std::nanf("")}) {
    values[20] = other;
    EXPECT_FALSE(all_finite(values)) << other;
  }
}

TEST(DType, RoundsToTheNearestBf16) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80) << "a tie goes to the even pattern";
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::nanf("")))));
}

TEST(Json, LimitsTheKeysOfAnObject) {
  std::string text = "{\"k\":0";
  for (int i = 0; i < 32768; ++i) text += ",\"k" + std::to_string(i) + "\":0";
  EXPECT_THROW(parse_json(text + "}", "x"), Error);
  EXPECT_EQ(parse_sorted_json(text + "}", "x").size(), 32769u);
}

// In our own words, and with the place, whatever stops the library's parser.
TEST(JsonTest, SaysWhereATextIsNoJson) {
  const auto error_of = [](std::string_view text) -> std::string {
    try {
      parse_json(text, "file");
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of("nonsense"), "[json] file: it is no JSON: unexpected text in line 1, column 2");
  EXPECT_EQ(error_of("{\n  \"a\": 1,\n}"), "[json] file: it is no JSON: unexpected text in line 3, column 1");
  EXPECT_EQ(error_of("{\"a\": [1, 2"), "[json] file: it is no JSON: it ends too early, in line 1");
  EXPECT_EQ(error_of(""), "[json] file: it is no JSON: it ends too early, in line 1");
  for (const char* text : {"{'a': 1}", "[1e999]", "\"\xff\"", "[1] 2", "{\"a\" 1}", "\"\\q\"", "// x"})
    EXPECT_EQ(error_of(text).find("[json] file: it is no JSON: unexpected text in line 1, column "), 0u)
        << error_of(text);
}

TEST(JsonTest, RefusesDepthDuplicatesAndTypes) {
  EXPECT_THROW(parse_json(std::string(200, '[') + std::string(200, ']'), "deep"), Error);
  EXPECT_THROW(parse_json(R"({"a":1,"a":2})", "twice"), Error);
  EXPECT_NO_THROW(parse_json(R"({"a":{"b":1},"c":{"b":1}})", "nested"));
  const Json json = parse_json(R"({"n":3,"t":"x","f":1.5,"neg":-1})", "types");
  EXPECT_EQ(json_required<int64_t>(json, "n", "types"), 3);
  EXPECT_THROW(json_required<int64_t>(json, "f", "types"), Error);
  EXPECT_THROW(json_required<uint64_t>(json, "neg", "types"), Error);
  EXPECT_THROW(json_required<bool>(json, "n", "types"), Error);
  EXPECT_THROW(json_required<std::string>(json, "missing", "types"), Error);
}

TEST(Files, StagedOutputAppearsWholeOrNotAtAll) {
  const fs::path dir = fresh_directory("staged");
  {
    StagedOutput output(dir / "model", StagedOutput::Kind::kDirectory, false);
    write_text_file(output.staging() / "a", "1");
    EXPECT_FALSE(fs::exists(dir / "model"));
  }
  EXPECT_TRUE(fs::is_empty(dir)) << "without commit nothing is left";
  {
    StagedOutput output(dir / "model", StagedOutput::Kind::kDirectory, false);
    write_text_file(output.staging() / "a", "1");
    output.commit();
  }
  EXPECT_EQ(read_text_file(dir / "model" / "a"), "1");
  EXPECT_THROW(StagedOutput(dir / "model", StagedOutput::Kind::kDirectory, false), Error);
  {
    StagedOutput output(dir / "model", StagedOutput::Kind::kDirectory, true);
    EXPECT_TRUE(fs::exists(dir / "model" / "a")) << "the old result stays until the new one is complete";
    output.commit();
  }
  EXPECT_FALSE(fs::exists(dir / "model" / "a"));
}

TEST(Files, StagedOutputIsWrittenByOneRunAtATime) {
  const fs::path dir = fresh_directory("staged_lock");
  StagedOutput first(dir / "model", StagedOutput::Kind::kDirectory, false);
  EXPECT_THROW(StagedOutput(dir / "model", StagedOutput::Kind::kDirectory, false), Error);
  EXPECT_TRUE(fs::exists(first.staging())) << "the second run must not touch what the first has written";
  fs::create_directories(dir / "model");
  EXPECT_THROW(first.commit(), Error) << "the target came into being meanwhile";
  EXPECT_THROW(StagedOutput("/", StagedOutput::Kind::kFile, true), Error);
}

TEST(Files, LinksAndDevicesAreNotReplaced) {
  const fs::path dir = fresh_directory("links");
  write_text_file(dir / "real", "kept");
  fs::create_symlink("real", dir / "link");
  fs::create_symlink("nowhere", dir / "dangling");
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  for (const char* name : {"link", "dangling", "pipe"})
    for (const bool overwrite : {false, true})
      EXPECT_THROW(StagedOutput(dir / name, StagedOutput::Kind::kFile, overwrite), Error) << name;
  EXPECT_EQ(read_text_file(dir / "link"), "kept");
  EXPECT_TRUE(fs::is_fifo(dir / "pipe"));
}

TEST(Files, WhatWasWrittenLastCanBeTakenBack) {
  const fs::path path = fresh_directory("cut") / "file";
  OutputFile out(path);
  out.write("kept");
  out.write(std::string(1 << 20, 'x'));
  out.write("y");
  out.cut(4);
  EXPECT_EQ(out.position(), 4u);
  out.write("more");
  EXPECT_THROW(out.cut(9), Error);
  out.close();
  EXPECT_EQ(read_text_file(path), "keptmore");
}

TEST(Files, PagesThatAreReleasedAreReadAgain) {
  const fs::path path = fresh_directory("release") / "file";
  std::string text(size_t{20} << 20, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 21);
  write_text_file(path, text);
  const MappedFile file(path);
  const auto holds = [&] { return std::memcmp(file.bytes().data(), text.data(), text.size()) == 0; };
  ASSERT_TRUE(holds());
  const uint64_t before = resident_bytes();
  file.release();
  EXPECT_LE(resident_bytes() + (uint64_t{16} << 20), before);
  EXPECT_TRUE(holds());
}

TEST(Files, PagesAreDueAfterAFewMebibytesWhateverTheReads) {
  for (const uint64_t read : {uint64_t{100}, uint64_t{1} << 20, uint64_t{40} << 20}) {
    ReadCount count;
    uint64_t most = 0, since = 0, due = 0;
    for (int i = 0; i < 1000; ++i) {
      since += read;
      if (!count.add(read)) continue;
      most = std::max(most, std::exchange(since, 0)), ++due;
    }
    EXPECT_GE(due, 5u) << read;
    EXPECT_LE(most, read + (uint64_t{8} << 20)) << read;
  }
}

TEST(InOrder, TakesEachRunInItsPlace) {
  for (const int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    std::vector<int64_t> taken;
    std::atomic<int> taking = 0;
    in_order(
        1003, 10, pool,
        [](int64_t first, int64_t count) {
          if (first % 70 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          return std::pair(first, count);
        },
        [&](const std::pair<int64_t, int64_t>& run) {
          EXPECT_EQ(taking.exchange(1), 0);
          for (int64_t i = 0; i < run.second; ++i) taken.push_back(run.first + i);
          taking = 0;
        });
    ASSERT_EQ(taken.size(), 1003u);
    for (size_t i = 0; i < taken.size(); ++i) EXPECT_EQ(taken[i], static_cast<int64_t>(i));
  }
}

// What is made waits for what comes before it, but not without bounds.
TEST(InOrder, LittleLiesReady) {
  constexpr int kThreads = 3;
  ThreadPool pool(kThreads);
  std::atomic<int64_t> made = 0;
  in_order(
      200, 1, pool, [&](int64_t first, int64_t) { return ++made, first; },
      [&](int64_t run) {
        if (run == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
        EXPECT_LE(made, run + 1 + static_cast<int64_t>(kReadyRuns + 1) * kThreads);
      });
  EXPECT_EQ(made, 200);
}

TEST(InOrder, AFailureEndsTheWork) {
  for (const int threads : {1, 4})
    for (const bool when_taken : {false, true}) {
      ThreadPool pool(threads);
      std::atomic<int64_t> made = 0;
      std::vector<int64_t> taken;
      const auto fails = [](int64_t run) {
        if (run == 20) fail("test", "run", "it fails");
      };
      EXPECT_THROW(in_order(
                       100000, 1, pool,
                       [&](int64_t first, int64_t) {
                         ++made;
                         if (!when_taken) fails(first);
                         return first;
                       },
                       [&](int64_t run) {
                         if (when_taken) fails(run);
                         taken.push_back(run);
                       }),
                   Error);
      EXPECT_LT(made, 1000) << "nothing more is made";
      EXPECT_LE(taken.size(), 20u);
      for (size_t i = 0; i < taken.size(); ++i) EXPECT_EQ(taken[i], static_cast<int64_t>(i));
    }
}

TEST(Files, AFullDiskIsAnError) {
  OutputFile out("/dev/full");
  const std::string big(8 << 20, 'x');
  EXPECT_THROW(out.write(big), Error);
}

TEST(Files, CorpusOfDirectoryAndJsonLines) {
  const fs::path dir = fresh_directory("corpus");
  write_text_file(dir / "b.txt", "second");
  write_text_file(dir / "a.md", "first");
  write_text_file(dir / "PROVENANCE.txt", "not text");
  write_text_file(dir / "c.jsonl", "{\"text\":\"x\"}\n{\"text\":\"y\"}\n");
  EXPECT_EQ(read_corpus(dir), "first\n\nsecond");
  EXPECT_EQ(read_corpus(dir / "c.jsonl"), "x\n\ny");
  EXPECT_THROW(read_corpus(dir / "missing.txt"), Error);
}

TEST(DigestTest, DependsOnNamesAndBytes) {
  EXPECT_EQ(digest_of("abc").size(), 32u);
  EXPECT_NE(digest_of("abc"), digest_of("abd"));
  const fs::path dir = fresh_directory("digest");
  write_text_file(dir / "a", "1");
  const std::string before = digest_of_path(dir);
  fs::rename(dir / "a", dir / "b");
  EXPECT_NE(digest_of_path(dir), before);
}

TEST(ThreadPoolTest, RunsEveryShardOnceAndRethrows) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int repeat = 0; repeat < 200; ++repeat) {
      std::vector<std::atomic<int>> hits(17);
      pool.run(17, [&](int64_t i) { ++hits[static_cast<size_t>(i)]; });
      for (const auto& hit : hits) ASSERT_EQ(hit, 1);
    }
    EXPECT_THROW(pool.run(3,
                          [](int64_t i) {
                            if (i == 1) fail("test", "shard", "broken");
                          }),
                 Error);
    int64_t covered = 0;
    pool.run_ranges(10, 4,
                    [&](int64_t first, int64_t last) { __atomic_add_fetch(&covered, last - first, __ATOMIC_SEQ_CST); });
    EXPECT_EQ(covered, 10);
  }
}

TEST(Text, GlobSizesAndNearest) {
  EXPECT_TRUE(glob_match("model.layers.*.q_proj.weight", "model.layers.12.q_proj.weight"));
  EXPECT_TRUE(glob_match("*down*", "mlp.down_proj"));
  EXPECT_FALSE(glob_match("*down", "mlp.down_proj"));
  EXPECT_TRUE(glob_match("layer?", "layer3"));
  EXPECT_EQ(parse_size("8GiB", "--memory"), 8ull << 30);
  EXPECT_EQ(parse_size("1.5MiB", "--memory"), 3ull << 19);
  EXPECT_THROW(parse_size("8 apples", "--memory"), Error);
  EXPECT_THROW(parse_size("-1", "--memory"), Error);
  const std::vector<std::string> names{"scheme", "method", "samples"};
  EXPECT_EQ(nearest_name("shceme", names), "scheme");
  EXPECT_EQ(nearest_name("amples", names), "samples");
  const std::vector<std::string> types{"f16", "q4_k_s", "q4_k_m", "int2-g64-sym", "int4-g64-sym", "nf4-g64"};
  EXPECT_EQ(nearest_name("nf4", types), "nf4-g64") << "what is left out at the end";
  EXPECT_EQ(nearest_name("Q4_K_M", types), "q4_k_m") << "any case";
  EXPECT_EQ(nearest_name("int4-sym", types), "int4-g64-sym") << "of equals the one that begins alike";
}

TEST(ErrorTest, ReadsAsTheContractSays) {
  try {
    fail("gptq", "q_proj", "the Hessian did not factor", "Raise --damp");
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[gptq] q_proj: the Hessian did not factor. Raise --damp");
    EXPECT_EQ(e.kind(), ErrorKind::kFailed);
  }
}

}  // namespace
}  // namespace retort
