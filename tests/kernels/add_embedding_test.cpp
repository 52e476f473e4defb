// add, embedding and scatter_rows: exact up to the one rounding of a sum.
#include <cmath>
#include <cstring>

#include "ref/embedding.h"
#include "support/kernel_case.h"

namespace lema::test {

namespace {

Values magnitudes(Values x) {
  for (double& value : x) value = std::abs(value);
  return x;
}

}  // namespace

TEST_CASE("add: one rounding, in place on either side, in columns of a wider matrix") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t C : kWidths)
        for (const DType X : activations()) {
          INFO("N " << N << ", C " << C << ", " << name(X));
          const Matrix a = Matrix::random(N, C, X, 1, 1, apart(C, 2)),
                       b = Matrix::random(N, C, X, 2, 1, apart(C, 3));
          Matrix expected(N, C, X);
          const Values sum = a.values() + b.values();
          for (int64_t i = 0; i < N * C; ++i)
            store(expected.view().data, X, i, sum[static_cast<size_t>(i)]);
          const auto separate = [&](Ops& ops, const Matrix& y) { ops.add(y, a, b); };
          const auto left = [&](Ops& ops, const Matrix& y) { ops.add(y, y, b); };
          const auto right = [&](Ops& ops, const Matrix& y) { ops.add(y, a, y); };
          CHECK(result_of(Matrix(N, C, X, apart(C, 1)), separate).values() == expected.values());
          CHECK(result_of(a, left).values() == expected.values());
          CHECK(result_of(b, right).values() == expected.values());
        }
  });
}

TEST_CASE("embedding: rows of the table, rounded to X, written or added") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t C : kWidths)
        for (const DType X : activations())
          for (const DType G : kWeights) {
            INFO("N " << N << ", C " << C << ", " << name(X) << ", table " << name(G));
            const Matrix table = Matrix::random(19, C, G, 1),
                         before = Matrix::random(N, C, X, 2, 1, apart(C, 3));
            Matrix ids(1, N, DType::I32);
            for (int64_t n = 0; n < N; ++n) ids.set(0, n, static_cast<double>(n * 7 % 19));
            const Values rows =
                ref::embedding(ids.values(), table.values(), static_cast<size_t>(C));
            for (const Write write : {Write::Overwrite, Write::Accumulate}) {
              Values sum = write == Write::Accumulate ? rows + before.values() : rows;
              sum = rounded(rounded(sum, DType::F32), X);
              const Matrix y = result_of(before, [&](Ops& ops, const Matrix& out) {
                ops.embedding(out, ids.vector(), table.tensor(), write);
              });
              CHECK(y.values() == sum);
            }
          }
  });
}

// In a safetensors file a table may begin at any byte.
TEST_CASE("embedding: a table at any byte is what it is where elements are whole") {
  on_each_isa([] {
    for (const int64_t C : {int64_t{7}, int64_t{64}})
      for (const DType X : activations())
        for (const DType G : kWeights) {
          const Matrix table = Matrix::random(19, C, G, 1), room(20, C, G),
                       ids = int_matrix(1, 3, {18, 0, 7});
          const auto gather = [&](void* at) {
            return result_of(Matrix(3, C, X), [&](Ops& ops, const Matrix& y) {
                     ops.embedding(y, ids.vector(), {at, G, {19, C}}, Write::Overwrite);
                   })
                .values();
          };
          const Values expected = gather(table.view().data);
          for (const int64_t offset : {1, 2, 3, 6}) {
            INFO("C " << C << ", " << name(X) << ", table " << name(G) << " at " << offset);
            std::byte* at = static_cast<std::byte*>(room.view().data) + offset;
            std::memcpy(at, table.view().data, static_cast<size_t>(table.tensor().bytes()));
            CHECK(gather(at) == expected);
          }
        }
  });
}

TEST_CASE("embedding_backward: rows summed by id, in their order") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t C : kWidths)
        for (const DType X : activations()) {
          INFO("N " << N << ", C " << C << ", " << name(X));
          const Matrix dy = Matrix::random(N, C, X, 1, 1, apart(C, 3)),
                       before = Matrix::random(5, C, DType::F32, 2);
          Matrix ids(1, N, DType::I32);
          for (int64_t n = 0; n < N; ++n) ids.set(0, n, static_cast<double>(n * 7 % 5));
          const Values expected = ref::embedding_backward(before.values(), ids.values(),
                                                          dy.values(), static_cast<size_t>(C));
          const Values terms = ref::embedding_backward(magnitudes(before.values()), ids.values(),
                                                       magnitudes(dy.values()),
                                                       static_cast<size_t>(C));
          const Matrix d_table = result_of(before, [&](Ops& ops, const Matrix& out) {
            ops.embedding_backward(out.tensor(), ids.vector(), dy);
          });
          Values bound;
          for (double t : terms) bound.push_back(reduction_bound(N + 1, t));
          expect_close("d_table", d_table.values(), expected, bound);
        }
  });
}

TEST_CASE("scatter_rows: each row to its place, the other rows and the gaps as they were") {
  for (const int64_t N : {1, 7, 33, 64, 65, 130})
    for (const int64_t C : kWidths)
      for (const DType X : activations()) {
        INFO("N " << N << ", C " << C << ", " << name(X));
        const int64_t places = 2 * N + 3;
        const Matrix x = Matrix::random(N, C, X, 1, 1, apart(C, 2)),
                     before = Matrix::random(places, C, X, 2, 1, apart(C, 3));
        // Distinct, in no order, some places left out: the step and the number of places are
        // coprime.
        const int64_t step = places % 5 != 0 ? 5 : 7;
        Matrix rows(1, N, DType::I32);
        for (int64_t n = 0; n < N; ++n)
          rows.set(0, n, static_cast<double>((n + 1) * step % places));
        const Matrix y = result_of(
            before, [&](Ops& ops, const Matrix& out) { ops.scatter_rows(out, x, rows.vector()); });
        CHECK(y.values() == ref::scatter_rows(before.values(), x.values(), rows.values(),
                                              static_cast<size_t>(C)));
      }
}

TEST_CASE("conversions of vectors equal those of scalars for every 16-bit pattern") {
  Matrix halves(1, 65536, DType::F16), brains(1, 65536, DType::BF16), y(1, 65536, DType::F32);
  for (int i = 0; i < 65536; ++i) {
    static_cast<f16*>(halves.view().data)[i] = f16{static_cast<uint16_t>(i)};
    static_cast<bf16*>(brains.view().data)[i] = bf16{static_cast<uint16_t>(i)};
  }
  const Matrix zero = int_matrix(1, 1, {0});
  on_each_isa([&] {
    Ops& ops = test_ops(1);
    for (const Matrix* table : {&halves, &brains}) {
      ops.embedding(y, zero.vector(), table->tensor(), Write::Overwrite);
      int different = 0;
      const Values found = y.values(), expected = table->values();
      for (size_t i = 0; i < found.size(); ++i)
        different += found[i] != expected[i] && !(std::isnan(found[i]) && std::isnan(expected[i]));
      CHECK(different == 0);
    }
    // f32 to bf16: ties, overflow to infinity and NaN through a table of f32.
    Matrix exact(1, 8, DType::F32), rounded(1, 8, DType::BF16);
    const std::vector<float> values = {1.00390625f, 1.01171875f, 3.4e38f, -3.4e38f,
                                       INFINITY,    NAN,         1e-40f,  -0.0f};
    for (int64_t c = 0; c < 8; ++c) exact.set(0, c, values[static_cast<size_t>(c)]);
    ops.embedding(rounded, zero.vector(), exact.tensor(), Write::Overwrite);
    for (size_t c = 0; c < 8; ++c) {
      const bf16 found = static_cast<bf16*>(rounded.view().data)[c];
      // Which NaN is the device's own choice.
      CHECK((found.bits == to_bf16(values[c]).bits ||
             (std::isnan(to_f32(found)) && std::isnan(values[c]))));
    }
  });
}

}  // namespace lema::test
