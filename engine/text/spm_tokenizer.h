// engine/text/spm_tokenizer.h - SentencePiece's BPE mode ("llama" vocabularies): pieces merge by
// score, bytes where no piece fits. Source: Kudo and Richardson, "SentencePiece", EMNLP 2018 demo;
// behaviour on control and space-prefix cases as GGUF loaders have it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "engine/text/merge.h"
#include "engine/text/text_table.h"
#include "engine/text/tokenizer.h"

namespace strata::engine {

class SpmTokenizer final : public Tokenizer {
 public:
  /// `spec` is valid (validate_tokenizer_spec).
  explicit SpmTokenizer(TokenizerSpec spec);

 private:
  void encode_plain(const Stretch& stretch, std::vector<TokenId>& out,
                    EncodeWork& work) const override;
  void append_piece_bytes(TokenId token, std::string& out) const override;
  /// The tokens of one stretch. Neighbouring characters that the vocabulary lacks become one
  /// unknown token, as in SentencePiece.
  struct Pieces {
    std::vector<TokenId>& out;
    bool ends_unknown = false;
    void add(TokenId token) {
      out.push_back(token);
      ends_unknown = false;
    }
    void add_unknown(TokenId unk) {
      if (!ends_unknown) out.push_back(unk);
      ends_unknown = true;
    }
  };
  void rank_scores();
  void note_neighbours();
  bool may_be_neighbours(uint32_t left, uint32_t right) const;
  void encode_island(std::string_view text, MergeScratch& scratch, Pieces& pieces,
                     EncodeWork& work) const;
  void append_character(std::string_view character, Pieces& pieces) const;

  std::vector<uint32_t> ranks_;  // by token; kNoMerge where text never becomes it
  std::array<TokenId, 256> byte_tokens_{};
  std::vector<uint64_t>
      neighbours_;  // bits: hashed pairs of code points that stand side by side in some piece
  uint64_t piece_bytes_max_ = 0;
};

}  // namespace strata::engine
