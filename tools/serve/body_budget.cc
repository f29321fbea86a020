#include "tools/serve/body_budget.h"

#include <utility>

namespace strata::serve {

BodyShare::BodyShare(BodyShare&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), n_bytes_(std::exchange(other.n_bytes_, 0)) {}

BodyShare& BodyShare::operator=(BodyShare&& other) noexcept {
  if (this == &other) return *this;
  release();
  budget_ = std::exchange(other.budget_, nullptr);
  n_bytes_ = std::exchange(other.n_bytes_, 0);
  return *this;
}

bool BodyShare::grow(BodyBudget& of, uint64_t n_bytes) {
  if (n_bytes <= n_bytes_) return true;
  const uint64_t more = n_bytes - n_bytes_;
  if (of.taken_bytes_.fetch_add(more) + more > of.most_bytes_) {
    of.taken_bytes_ -= more;
    return false;
  }
  budget_ = &of;
  n_bytes_ = n_bytes;
  return true;
}

void BodyShare::release() {
  if (budget_ != nullptr) budget_->taken_bytes_ -= n_bytes_;
  budget_ = nullptr;
  n_bytes_ = 0;
}

}  // namespace strata::serve
