// Resolution of a family's table against the tensors of a folder.
#include "layout/piece_table.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/log.h"

namespace lema {
namespace {

// The tensor of a head that is not the embedding, in every family.
constexpr const char* kHeadTensor = "lm_head.weight";
// Fields start at multiples of this inside a unit: a cache line, and what 16-byte vector loads
// need.
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

bool have_equal_bytes(const ModelFolder& folder, const StoredTensor& a, const StoredTensor& b) {
  constexpr int64_t kStep = int64_t{1} << 20;
  const TensorEntry &x = a.entry, &y = b.entry;
  if (x.dtype != y.dtype || !(x.shape == y.shape)) return false;
  std::vector<std::byte> left(static_cast<size_t>(std::min(kStep, x.bytes))), right = left;
  for (int64_t at = 0; at < x.bytes; at += kStep) {
    const int64_t bytes = std::min(kStep, x.bytes - at);
    folder.files()[a.file].file().read_at(left.data(), bytes, x.offset + at);
    folder.files()[b.file].file().read_at(right.data(), bytes, y.offset + at);
    if (!std::equal(left.begin(), left.begin() + bytes, right.begin())) return false;
  }
  return true;
}

// The folder's table. Where the config ties the head and the files hold one of other bytes than the
// embedding's, that one is the head. Ref: transformers.PreTrainedModel.tie_weights.
ModelSpec spec_of(const ModelFolder& folder) {
  ModelSpec spec = model_spec(
      folder.config(), [&](const char* tensor) { return folder.find(tensor) != nullptr; });
  const StoredTensor *embed = folder.find(spec.embed.tensor), *head = folder.find(kHeadTensor);
  if (folder.config().tied_head && embed && head && !have_equal_bytes(folder, *embed, *head)) {
    log::warn("{} is no copy of the embedding and is the head, though config.json ties the two",
              folder.place(*head));
    spec.head.tensor = kHeadTensor;
  }
  return spec;
}

class Resolver {
 public:
  explicit Resolver(const ModelFolder& folder) : folder_(folder) {}

  PlacedField place(const FieldSpec& spec) {
    const StoredTensor* tensor = folder_.find(spec.tensor);
    if (!tensor)
      fail(ErrorCode::BadInput, "{}: tensor {} is missing", folder_.path().string(),
           escaped(spec.tensor));
    const TensorEntry& entry = tensor->entry;
    if (!(entry.shape == spec.shape))
      fail(ErrorCode::BadInput, "{} is {} {}; config.json needs {}", folder_.place(*tensor),
           name(entry.dtype), entry.shape.str(), spec.shape.str());
    if (entry.dtype != DType::F32 && entry.dtype != DType::BF16 && entry.dtype != DType::F16)
      fail(ErrorCode::BadInput, "{} is {}; supported are F32, BF16 and F16", folder_.place(*tensor),
           name(entry.dtype));
    claimed_.insert(spec.tensor);
    return {spec.field,   spec.module,  entry.dtype, entry.shape,
            tensor->file, entry.offset, 0,           entry.bytes};
  }

  void check_nothing_left_over() const {
    for (const auto& [tensor, stored] : folder_.tensors())
      if (!claimed_.contains(tensor) && !is_ignorable(tensor, folder_.config()))
        fail(ErrorCode::BadInput, "{} belongs to no weight of a {} model", folder_.place(stored),
             folder_.config().model_type);
  }

 private:
  const ModelFolder& folder_;
  std::set<std::string> claimed_;
};

// Lays the fields into the unit from `offset`. Where the file holds them back to back in this
// order, the piece keeps the file's spacing and is one extent; else each field starts aligned and
// is an extent of its own.
Piece make_piece(std::string name, std::vector<PlacedField> fields, int64_t offset) {
  Piece piece{std::move(name), std::move(fields), {}, aligned(offset), 0};
  bool contiguous = true;
  for (size_t i = 1; i < piece.fields.size(); ++i) {
    const PlacedField &before = piece.fields[i - 1], &field = piece.fields[i];
    contiguous = contiguous && field.file == before.file &&
                 field.file_offset == before.file_offset + before.bytes;
  }
  // Kernels read 16 bytes at a time; a run that would misalign a matrix is copied field by field.
  for (const PlacedField& field : piece.fields)
    contiguous = contiguous && (field.file_offset - piece.fields[0].file_offset) % 16 == 0;
  int64_t at = piece.slot_offset;
  for (PlacedField& field : piece.fields) {
    if (!contiguous) at = aligned(at);
    field.slot_offset = at;
    if (!contiguous) piece.extents.push_back({field.file, field.file_offset, at, field.bytes});
    at += field.bytes;
  }
  piece.bytes = at - piece.slot_offset;
  if (contiguous)
    piece.extents.push_back(
        {piece.fields[0].file, piece.fields[0].file_offset, piece.slot_offset, piece.bytes});
  return piece;
}

std::vector<Unit> head_units(const PlacedField& head, int64_t rows_per_chunk) {
  std::vector<Unit> units;
  const int64_t row_bytes = head.bytes / head.shape[0];
  for (int64_t begin = 0; begin < head.shape[0]; begin += rows_per_chunk) {
    const int64_t rows = std::min(rows_per_chunk, head.shape[0] - begin);
    PlacedField field = head;
    field.shape[0] = rows;
    field.file_offset += begin * row_bytes;
    field.bytes = rows * row_bytes;
    Unit unit;
    unit.pieces.push_back(
        make_piece(fmt::format("head rows {}-{}", begin, begin + rows - 1), {field}, 0));
    unit.bytes = aligned(unit.pieces[0].bytes);
    units.push_back(std::move(unit));
  }
  return units;
}

}  // namespace

const Unit& PieceTable::unit(int64_t i) const {
  const auto n = static_cast<int64_t>(blocks.size());
  return i < n ? blocks[static_cast<size_t>(i)] : head_chunks[static_cast<size_t>(i - n)];
}

PieceTable make_piece_table(const ModelFolder& folder, int64_t head_chunk_rows) {
  PieceTable table;
  table.spec = spec_of(folder);
  Resolver resolver(folder);
  table.embed = resolver.place(table.spec.embed);
  for (const FieldSpec& spec : table.spec.positions)
    table.positions.push_back(resolver.place(spec));
  int64_t block_bytes = 0;
  for (size_t l = 0; l < table.spec.blocks.size(); ++l) {
    Unit unit;
    int64_t offset = 0;
    for (const PieceSpec& spec : table.spec.blocks[l]) {
      std::vector<PlacedField> fields;
      for (const FieldSpec& field : spec.fields) fields.push_back(resolver.place(field));
      unit.pieces.push_back(
          make_piece(fmt::format("block {} {}", l, spec.name), std::move(fields), offset));
      offset = unit.pieces.back().slot_offset + unit.pieces.back().bytes;
    }
    unit.bytes = aligned(offset);
    block_bytes = std::max(block_bytes, unit.bytes);
    table.blocks.push_back(std::move(unit));
  }
  for (const FieldSpec& spec : table.spec.final_norm)
    table.final_norm.push_back(resolver.place(spec));
  const PlacedField head = resolver.place(table.spec.head);
  const int64_t row_bytes = head.bytes / head.shape[0];
  if (head_chunk_rows == 0) head_chunk_rows = block_bytes / row_bytes;
  table.head_chunk_rows = std::clamp<int64_t>(head_chunk_rows, 1, head.shape[0]);
  table.head_chunks = head_units(head, table.head_chunk_rows);
  resolver.check_nothing_left_over();
  return table;
}

}  // namespace lema
