// The comparison itself: each planted error must be seen, and by its place.
#include "support/expect_close.h"

#include "support/random_tensor.h"

namespace lema::test {
namespace {

// 8 rows of 16 values, and a bound of a few roundings.
struct Planted {
  Values expected = Matrix::random(8, 16, DType::F32, 1).values(), found = expected;
  Comparison compared() const {
    return compare(found, expected, elementwise_bound(expected, DType::F32));
  }
};

}  // namespace

TEST_CASE("equal values and roundings pass") {
  Planted p;
  CHECK(p.compared().ok);
  for (double& x : p.found) x *= 1 + 0x1p-23;
  CHECK(p.compared().ok);
  CHECK(compare({INFINITY}, {INFINITY}, {1}).ok);
}

TEST_CASE("one wrong element fails and is named") {
  Planted p;
  p.found[37] *= 1 + 0x1p-20;
  CHECK_FALSE(p.compared().ok);
  CHECK(p.compared().text.find("worst [37]") != std::string::npos);
  CHECK(p.compared().text.find("1 of 128") != std::string::npos);
}

TEST_CASE("NaN fails on either side and in the bound") {
  CHECK_FALSE(compare({NAN}, {1}, {1}).ok);
  CHECK_FALSE(compare({1}, {NAN}, {1}).ok);
  CHECK_FALSE(compare({NAN}, {NAN}, {1}).ok);
  CHECK_FALSE(compare({1}, {2}, {NAN}).ok);
  CHECK_FALSE(compare({INFINITY}, {1}, {1}).ok);
  CHECK_FALSE(compare_nmse({NAN, 1}, {1, 1}, DType::BF16).ok);
  CHECK_FALSE(compare_gradient({NAN, 1}, {1, 1}, DType::BF16).ok);
}

TEST_CASE("a swapped row and an off-by-one fail every comparison") {
  Planted swapped, shifted;
  std::swap_ranges(swapped.found.begin(), swapped.found.begin() + 16, swapped.found.begin() + 16);
  std::rotate(shifted.found.begin(), shifted.found.begin() + 1, shifted.found.end());
  for (const Planted& p : {swapped, shifted}) {
    CHECK_FALSE(p.compared().ok);
    CHECK_FALSE(compare_nmse(p.found, p.expected, DType::BF16).ok);
    CHECK_FALSE(compare_gradient(p.found, p.expected, DType::BF16).ok);
  }
}

TEST_CASE("a missing value fails") { CHECK_FALSE(compare({1, 2}, {1, 2, 3}, {1, 1, 1}).ok); }

TEST_CASE("a gradient of the wrong sign or size fails") {
  Planted p;
  for (double& x : p.found) x = -x;
  CHECK_FALSE(compare_gradient(p.found, p.expected, DType::BF16).ok);
  for (double& x : p.found) x *= -1.02;
  CHECK_FALSE(compare_gradient(p.found, p.expected, DType::BF16).ok);
  CHECK(cosine({1, 0}, {0, 1}) == 0);
  CHECK(nmse({0, 0}, {0, 0}) == 0);
}

TEST_CASE("random matrices spread, repeat by seed and guard their gaps") {
  const Matrix a = Matrix::random(33, 7, DType::BF16, 5, 1, 11),
               b = Matrix::random(33, 7, DType::BF16, 5, 1, 11);
  CHECK(a.same_bytes(b));
  CHECK(a.gaps_intact());
  double sum = 0, square = 0;
  for (const double x : a.values()) sum += x, square += x * x;
  CHECK(std::abs(sum / 231) < 0.3);
  CHECK(std::abs(square / 231 - 1) < 0.4);
  static_cast<bf16*>(a.view().data)[8] = bf16{0};
  CHECK_FALSE(a.gaps_intact());
}

}  // namespace lema::test
