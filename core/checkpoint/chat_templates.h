// The chat templates that lie beside a model. Most have one; others have some for tools or for documents beside it.
#pragma once

#include <map>
#include <span>
#include <string>

#include "core/checkpoint/model_source.h"

namespace retort {

using ChatTemplates = std::map<std::string, std::string>;  // by name; the one without a name is "default"

// From chat_template.jinja or, in this order, chat_template.json and tokenizer_config.json, and from
// additional_chat_templates/NAME.jinja.
ChatTemplates chat_templates_of_side_files(std::span<const SideFile> files, const std::string& label);

// Where NAME.jinja lies.
std::string chat_template_file(const std::string& name);

}  // namespace retort
