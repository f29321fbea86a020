#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/gguf/gguf_file.h"
#include "engine/inspect.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::SmallModel;
using testing::TestFolder;

/// A small model in three shards: keys only, the embedding and layer 0, the rest.
class Shards {
 public:
  Shards() : model_(make_small_model()) {
    shards_[0].keys = model_.keys;
    for (size_t i = 0; i < model_.tensors.size(); ++i)
      shards_[i < 10 ? 1 : 2].tensors.push_back(model_.tensors[i]);
    for (uint32_t no = 0; no < 3; ++no) {
      shards_[no].set("split.no", no);
      shards_[no].set("split.count", uint32_t{3});
      shards_[no].set("split.tensors.count", static_cast<uint32_t>(model_.tensors.size()));
    }
  }

  SmallModel& operator[](uint32_t no) { return shards_[no]; }
  std::string path(uint32_t no) const {
    return folder_.path("small-0000" + std::to_string(no + 1) + "-of-00003.gguf");
  }
  /// Writes the shards; opening the first gives the model.
  std::string write() const {
    for (uint32_t no = 0; no < 3; ++no) shards_[no].writer().write(path(no));
    return path(0);
  }
  const SmallModel& model() const { return model_; }
  const TestFolder& folder() const { return folder_; }

 private:
  TestFolder folder_;
  SmallModel model_;
  SmallModel shards_[3];
};

TEST(GgufShards, GiveTheWholeModel) {
  Shards shards;
  shards[2].tensors.back().values[5] = 7.0f;
  shards[1].set("general.alignment", uint32_t{256});  // each shard says its own
  const GgufFile file = GgufFile::open(shards.write());
  EXPECT_EQ(file.n_shards(), 3u);
  EXPECT_EQ(file.tensors().size(), shards.model().tensors.size());
  uint64_t bytes = 0;
  for (uint32_t no = 0; no < 3; ++no) bytes += std::filesystem::file_size(shards.path(no));
  EXPECT_EQ(file.file_bytes(), bytes);
  const GgufTensor* last = file.find_tensor(shards.model().tensors.back().name);
  ASSERT_NE(last, nullptr);
  EXPECT_EQ(last->shard, 2u);
  EXPECT_EQ(file.find_tensor("token_embd.weight")->shard, 1u);
  EXPECT_EQ(file.find_tensor("token_embd.weight")->file_offset % 256, 0u);
  float value = 0;
  file.read(*last, 20, std::as_writable_bytes(std::span(&value, 1)));
  EXPECT_EQ(value, 7.0f);
  EXPECT_TRUE(inspect_model(file).can_run);
  EXPECT_EQ(check_tensors(file).n_tensors, file.tensors().size());
}

TEST(GgufShards, OneShardOfOneIsAFile) {
  SmallModel model = make_small_model();
  model.set("split.count", uint32_t{1});
  const TestFolder folder;
  EXPECT_EQ(GgufFile::open(folder.write("any name.gguf", model.bytes())).n_shards(), 1u);
}

TEST(GgufShards, MissingShardIsNamed) {
  Shards shards;
  const std::string first = shards.write();
  std::filesystem::remove(shards.path(1));
  expect_error([&] { return GgufFile::open(first); }, ErrorCode::kIo,
               "shard 2 of 3: cannot open the file: No such file or directory", shards.path(1));
}

TEST(GgufShards, AreOpenedByTheFirst) {
  Shards shards;
  shards.write();
  expect_error([&] { return GgufFile::open(shards.path(1)); }, ErrorCode::kBadFile,
               "wanted the first shard, found shard 2 of 3", shards.path(1) + ": key split.no");
}

TEST(GgufShards, KeepTheirNames) {
  Shards shards;
  const std::string renamed = shards.folder().path("model.gguf");
  std::filesystem::rename(shards.write(), renamed);
  expect_error([&] { return GgufFile::open(renamed); }, ErrorCode::kBadFile,
               "wanted a file name that ends in -00001-of-00003.gguf (shard 1 of 3), found another",
               renamed);
}

TEST(GgufShards, MixedUpOnesAreRefused) {
  Shards shards;
  const std::string first = shards.write();
  std::filesystem::copy_file(shards.path(2), shards.path(1),
                             std::filesystem::copy_options::overwrite_existing);
  expect_error([&] { return GgufFile::open(first); }, ErrorCode::kBadFile,
               "wanted shard 2 of 3 by its name, found split.no 2 and split.count 3",
               shards.path(1) + ": key split.no");
  make_small_model().writer().write(shards.path(1));
  expect_error([&] { return GgufFile::open(first); }, ErrorCode::kBadFile,
               "wanted shard 2 of 3, found a file that is no shard", shards.path(1));
}

TEST(GgufShards, OfAnotherSplitAreRefused) {
  Shards shards;
  shards[1].set("split.count", uint32_t{4});
  expect_error([&] { return GgufFile::open(shards.write()); }, ErrorCode::kBadFile,
               "found split.no 1 and split.count 4", shards.path(1));
  Shards others;
  others[2].set("split.tensors.count", uint32_t{99});
  expect_error([&] { return GgufFile::open(others.write()); }, ErrorCode::kBadFile,
               "wanted 20 tensors over all shards as the first shard says, found 99",
               others.path(2) + ": key split.tensors.count");
}

TEST(GgufShards, TensorInTwoOfThemIsRefused) {
  Shards shards;
  shards[2].tensors.push_back(shards[1].tensors.front());
  expect_error([&] { return GgufFile::open(shards.write()); }, ErrorCode::kBadFile,
               "the tensor is also in an earlier shard",
               shards.path(2) + ": tensor token_embd.weight, offset ");
}

TEST(GgufShards, TensorsThatAreNotThereAreMissed) {
  Shards shards;
  shards[2].tensors.pop_back();
  expect_error([&] { return GgufFile::open(shards.write()); }, ErrorCode::kBadFile,
               "wanted 20 tensors over all shards, found 19",
               shards.path(0) + ": key split.tensors.count");
}

TEST(GgufShards, KeysOfWrongTypeOrSizeAreRefused) {
  const auto refuses = [](const std::string& key, SmallModel::Value value,
                          const std::string& message) {
    Shards shards;
    shards[0].set(key, std::move(value));
    expect_error([&] { return GgufFile::open(shards.write()); }, ErrorCode::kBadFile, message,
                 shards.path(0) + ": key " + key);
  };
  refuses("split.count", std::string("3"), "wanted an integer, found string");
  refuses("split.count", true, "wanted an integer, found bool");
  refuses("split.no", std::vector<int32_t>{0}, "wanted an integer, found an array of i32");
  refuses("split.no", uint32_t{3},
          "wanted a shard below split.count and that at most 65535, found 3 of 3");
  refuses("split.tensors.count", 20.0f, "wanted an integer, found f32");
  Shards many;
  many[0].set("split.count", ~uint64_t{0});
  expect_error([&] { return GgufFile::open(many.write()); }, ErrorCode::kBadFile,
               "found 0 of 18446744073709551615", many.path(0));
}

TEST(GgufShards, DamagedOneIsNamed) {
  Shards shards;
  const std::string first = shards.write();
  std::filesystem::resize_file(shards.path(2), std::filesystem::file_size(shards.path(2)) - 1000);
  expect_error([&] { return GgufFile::open(first); }, ErrorCode::kBadFile, "truncated: wanted ",
               shards.path(2) + ": tensor ");
}

}  // namespace
}  // namespace strata::engine
