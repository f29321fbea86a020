// engine/text/bpe_tokenizer.h - byte-level BPE ("gpt2" vocabularies): words of bytes, merged in the
// order of the file's merge list. Source: Sennrich, Haddow, Birch, ACL 2016 (BPE); Radford et al.,
// "Language models are unsupervised multitask learners", 2019, section 2.2 (bytes, and the
// printable characters that stand for them in token texts).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "engine/text/merge.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/text_table.h"
#include "engine/text/tokenizer.h"

namespace strata::engine {

/// From a pair of tokens to what they merge into.
class MergeTable {
 public:
  explicit MergeTable(uint64_t n_merges);
  /// The first candidate of a pair stays. Errors: kBadFile where pairs collide on purpose.
  void add(TokenId left, TokenId right, MergeCandidate candidate);
  MergeCandidate find(TokenId left, TokenId right) const;

 private:
  struct Entry {
    uint64_t pair = kNoPair;
    MergeCandidate candidate;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};  // of two kNoToken, which are never added
  std::vector<Entry> entries_;                       // open addressing, a power of two
};

class BpeTokenizer final : public Tokenizer {
 public:
  /// `spec` is valid (validate_tokenizer_spec). Errors: kBadFile (a merge names no token).
  explicit BpeTokenizer(TokenizerSpec spec);

 private:
  void encode_plain(const Stretch& stretch, std::vector<TokenId>& out,
                    EncodeWork& work) const override;
  void append_piece_bytes(TokenId token, std::string& out) const override;
  MergeTable read_merges() const;

  PreTokenizer pre_tokenizer_;
  MergeTable merges_;
  std::vector<std::string> pieces_;  // by token: its bytes; empty where no text becomes it
  TextTable pieces_by_bytes_;        // where whole words are taken without merging; else empty
  std::array<TokenId, 256> byte_tokens_{};
};

}  // namespace strata::engine
