#include "model/array_file.h"

#include <hdf5.h>

#include "core/base/error.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

// An HDF5 identifier and the function that closes it.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() { reset(); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  bool valid() const { return id_ >= 0; }
  hid_t get() const { return id_; }
  // False when what was written cannot be completed.
  bool reset() {
    const hid_t id = id_;
    id_ = -1;
    return id < 0 || close_(id) >= 0;
  }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// HDF5 prints its errors otherwise; ours say what failed. When the program ends, it would try once more to write what
// did not fit on the disk, and crash.
void silence_hdf5() {
  [[maybe_unused]] static const herr_t once = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

hid_t create_file(const fs::path& path) {
  silence_hdf5();
  return H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
}

hid_t open_file(const fs::path& path) {
  silence_hdf5();
  return H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
}

std::vector<int64_t> shape_of(hid_t dataset) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  std::vector<hsize_t> sizes(static_cast<size_t>(std::max(0, H5Sget_simple_extent_ndims(space.get()))));
  H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr);
  return {sizes.begin(), sizes.end()};
}

template <typename T>
std::vector<T> read_dataset(hid_t file, const fs::path& path, const std::string& name, hid_t type,
                            std::vector<int64_t>* shape = nullptr) {
  const Handle dataset(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) fail("array file", path.string(), "it has no array '" + name + "'");
  const std::vector<int64_t> sizes = shape_of(dataset.get());
  size_t count = 1;
  for (const int64_t size : sizes) count *= static_cast<size_t>(size);
  std::vector<T> values(count);
  if (count > 0 && H5Dread(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
    fail("array file", path.string(), "the array '" + name + "' cannot be read");
  if (shape) *shape = sizes;
  return values;
}

}  // namespace

struct ArrayWriter::Impl {
  explicit Impl(fs::path target)
      : path(std::move(target)), temporary(path.string() + ".partial"), file(create_file(temporary), H5Fclose) {
    if (!file.valid()) fail("array file", temporary.string(), "it cannot be created");
  }

  void write(const std::string& name, const std::vector<hsize_t>& shape, hid_t type, const void* data) {
    const Handle space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), H5Sclose);
    const Handle dataset(H5Dcreate2(file.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                         H5Dclose);
    if (!dataset.valid() || H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
      fail("array file", temporary.string(), "the array '" + name + "' cannot be written",
           "Is the disk full? Make room, and give the same command again");
  }

  fs::path path, temporary;
  Handle file;
};

ArrayWriter::ArrayWriter(fs::path path) : impl_(std::make_unique<Impl>(std::move(path))) {}

ArrayWriter::~ArrayWriter() {
  if (!impl_->file.valid()) return;
  impl_->file.reset();
  std::error_code ignored;
  fs::remove(impl_->temporary, ignored);
}

void ArrayWriter::write(const std::string& name, const std::vector<int64_t>& shape, std::span<const float> values) {
  impl_->write(name, {shape.begin(), shape.end()}, H5T_NATIVE_FLOAT, values.data());
}

void ArrayWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  impl_->write(name, {bytes.size()}, H5T_NATIVE_UINT8, bytes.data());
}

void ArrayWriter::write(const std::string& name, const std::string& text) {
  write(name, std::as_bytes(std::span(text)));
}

void ArrayWriter::commit() {
  if (!impl_->file.reset())
    fail("array file", impl_->temporary.string(), "it cannot be completed",
         "Is the disk full? Make room, and give the same command again");
  fs::rename(impl_->temporary, impl_->path);
}

struct ArrayReader::Impl {
  explicit Impl(fs::path source) : path(std::move(source)), file(open_file(path), H5Fclose) {
    if (!file.valid()) fail("array file", path.string(), "it is not a readable HDF5 file");
  }
  fs::path path;
  Handle file;
};

ArrayReader::ArrayReader(const fs::path& path) : impl_(std::make_unique<Impl>(path)) {}

ArrayReader::~ArrayReader() = default;

bool ArrayReader::has(const std::string& name) const {
  return H5Lexists(impl_->file.get(), name.c_str(), H5P_DEFAULT) > 0;
}

ArrayReader::Floats ArrayReader::read_floats(const std::string& name) const {
  Floats floats;
  floats.values = read_dataset<float>(impl_->file.get(), impl_->path, name, H5T_NATIVE_FLOAT, &floats.shape);
  return floats;
}

std::vector<std::byte> ArrayReader::read_bytes(const std::string& name) const {
  return read_dataset<std::byte>(impl_->file.get(), impl_->path, name, H5T_NATIVE_UINT8);
}

std::string ArrayReader::read_text(const std::string& name) const {
  const std::vector<std::byte> bytes = read_bytes(name);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace retort
