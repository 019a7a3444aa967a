// Errors in chat templates, against Jinja as transformers sets it up.
#include "export/template_syntax.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/json.h"

namespace retort {
namespace {

TEST(TemplateSyntax, IsWrongWhereJinjaSaysSo) {
  const Json golden = read_json_file(RETORT_SOURCE_DIR "/tests/golden/template_syntax.json");
  int wrong = 0;
  for (const Json& entry : golden["templates"]) {
    const auto text = entry["template"].get<std::string>();
    const std::string error = template_syntax_error(text);
    if (entry["error"].is_null() || entry.contains("grammar")) {
      EXPECT_EQ(error, "") << text;
    } else {
      EXPECT_NE(error, "") << text << ": " << entry["error"];
      ++wrong;
    }
  }
  EXPECT_GT(wrong, 30);
}

TEST(TemplateSyntax, NamesTheLineAndWhatIsWrong) {
  EXPECT_EQ(template_syntax_error("a\n\n{% endfor %}"), "line 3: '{% endfor %}' ends nothing");
  EXPECT_EQ(template_syntax_error("\n{% if a %}\n{% for b in c %}\n{% endif %}"),
            "line 4: '{% endif %}' ends '{% for %}'");
  EXPECT_EQ(template_syntax_error("\n{% if a %}\n"), "line 2: nothing ends '{% if %}'");
  EXPECT_EQ(template_syntax_error("{{ a[0 }}"), "line 1: '}' closes no bracket");
}

}  // namespace
}  // namespace retort
