// Every CPU kernel against plain loops that say the same: on ordinary, tied, nested, empty and degenerate input.
// Knows no PyTorch, so that sanitizers see nothing else: run.sh.

#include "cpu/matching.h"
#include "cpu/nms.h"
#include "cpu/pooling.h"
#include "cpu/rle.h"
#include "toys.h"
#include "warps.h"

using namespace smallobjects;

namespace {

void check_nms() {
    const int64_t count = one_of({0, 1, 20, 200});
    const std::vector<float> boxes = random_boxes(count, one_of({10.0f, 60.0f}), chance(0.5));
    std::vector<int64_t> groups(count);
    for (int64_t& group : groups) group = pick(-1, one_of({-1, 3}));
    const float threshold = one_of({0.0f, 0.3f, 0.5f, 0.7f, 1.0f});
    Flags kept = std::make_unique<bool[]>(count);
    nms(boxes.data(), groups.data(), count, threshold, kept.get(), threads);
    for (int64_t i = 0; i < count; i++) {
        const Box box = box_at(boxes.data(), i);
        bool wanted = true;
        for (int64_t j = 0; j < i; j++) {
            const Box other = box_at(boxes.data(), j);
            if (!kept[j] || groups[i] != groups[j] || !box.sound() || !other.sound()) continue;
            wanted = wanted && !(iou_of(box, other) > threshold);
        }
        require(kept[i] == wanted, "nms");
    }
}

struct OwnMatches {
    std::vector<int64_t> index;
    std::vector<float> iou;
    Flags forced;

    explicit OwnMatches(int64_t count) : index(count), iou(count), forced(std::make_unique<bool[]>(count)) {}
    Matches view() { return {index.data(), iou.data(), forced.get()}; }
};

float iou_or_zero(const Box& a, const Box& b) { return a.sound() && b.sound() ? iou_of(a, b) : 0.0f; }

OwnMatches match_densely(const std::vector<Box>& priors, const std::vector<Box>& truths, float min_iou, Ties ties) {
    OwnMatches matches(static_cast<int64_t>(priors.size()));
    for (const Box& truth : truths) {
        float best = 0, distance = 0;
        for (const Box& prior : priors) best = std::max(best, iou_or_zero(truth, prior));
        int64_t nearest = -1;
        for (size_t p = 0; p < priors.size() && best > 0; p++) {
            const float iou = iou_or_zero(truth, priors[p]), apart = squared_distance(truth, priors[p]);
            if (iou == 0 || iou < best * tie) continue;
            if (ties == Ties::all) matches.forced[p] = true;
            if (nearest < 0 || apart < distance) nearest = static_cast<int64_t>(p), distance = apart;
        }
        if (ties == Ties::nearest && nearest >= 0) matches.forced[nearest] = true;
    }
    for (size_t p = 0; p < priors.size(); p++) {
        matches.index[p] = -1;
        for (size_t t = 0; t < truths.size(); t++) {
            const float iou = iou_or_zero(truths[t], priors[p]);
            if (iou > matches.iou[p]) matches.iou[p] = iou, matches.index[p] = static_cast<int64_t>(t);
        }
        if (matches.iou[p] < min_iou && !matches.forced[p]) matches.iou[p] = 0, matches.index[p] = -1;
    }
    return matches;
}

std::vector<Box> as_boxes(const std::vector<float>& values) {
    std::vector<Box> boxes;
    for (size_t i = 0; i < values.size() / 4; i++) boxes.push_back(box_at(values.data(), static_cast<int64_t>(i)));
    return boxes;
}

void require_same(const OwnMatches& found, const OwnMatches& wanted, const char* what) {
    require(found.index == wanted.index && found.iou == wanted.iou &&
                std::equal(&found.forced[0], &found.forced[0] + found.iou.size(), &wanted.forced[0]),
            what);
}

void check_match_boxes() {
    const float side = one_of({10.0f, 60.0f});
    const std::vector<float> priors = random_boxes(one_of({0, 1, 9, 90}), side, chance(0.5));
    const std::vector<float> truths = random_boxes(one_of({0, 1, 9, 40}), side, chance(0.5));
    const float min_iou = one_of({0.0f, 0.1f, 0.5f, 1.0f});
    const Ties ties = static_cast<Ties>(pick(0, 2));
    OwnMatches found(static_cast<int64_t>(priors.size() / 4));
    match_boxes(priors.data(), static_cast<int64_t>(priors.size() / 4), truths.data(),
                static_cast<int64_t>(truths.size() / 4), min_iou, ties, found.view(), threads);
    require_same(found, match_densely(as_boxes(priors), as_boxes(truths), min_iou, ties), "match_boxes");
}

void check_match_anchors() {
    std::vector<AnchorGrid> grids;
    int64_t count = 0;
    for (int64_t g = pick(0, 3); g > 0; g--) {
        const float stride = one_of({2.0f, 4.0f, 8.0f}), offset = one_of({0.0f, 0.5f}) * stride;
        const bool whole = chance(0.5);
        const float width = uniform(0.5f, 30), height = uniform(0.5f, 30);
        grids.push_back({stride, stride, offset, offset, whole ? std::ceil(width) : width,
                         whole ? std::ceil(height) : height, pick(0, 20), pick(0, 40), count, 1});
        count += grids.back().columns * grids.back().rows;
    }
    std::vector<Box> anchors;
    for (const AnchorGrid& grid : grids) {
        for (int64_t cell = 0; cell < grid.columns * grid.rows; cell++)
            anchors.push_back(grid.anchor(cell / grid.columns, cell % grid.columns));
    }
    const std::vector<float> truths = random_boxes(one_of({0, 1, 9, 30}), 60, chance(0.5));
    const float min_iou = one_of({0.0f, 0.1f, 0.5f, 1.0f});
    const Ties ties = static_cast<Ties>(pick(0, 2));
    OwnMatches found(count);
    AnchorMatcher(grids, truths.data(), static_cast<int64_t>(truths.size() / 4), min_iou, ties)
        .match(found.view(), threads);
    // So far away, distances and IoUs drown in rounding: the sanitizers alone have looked.
    if (std::any_of(truths.begin(), truths.end(),
                    [](float value) { return std::isfinite(value) && std::abs(value) > 1e6f; }))
        return;
    require_same(found, match_densely(anchors, as_boxes(truths), min_iou, ties), "match_anchors");
}

// The feature at (x, y) as RoIAlign reads it.
double sample(const std::vector<float>& map, int64_t height, int64_t width, int64_t channels, int64_t c, double x,
              double y) {
    if (!(x >= -1 && x <= static_cast<double>(width) && y >= -1 && y <= static_cast<double>(height))) return 0;
    const Taps<double> column(x, width), row(y, height);
    auto at = [&](int64_t r, int64_t k) { return static_cast<double>(map[(r * width + k) * channels + c]); };
    return (at(row.low, column.low) * (1 - column.fraction) + at(row.low, column.high) * column.fraction) *
               (1 - row.fraction) +
           (at(row.high, column.low) * (1 - column.fraction) + at(row.high, column.high) * column.fraction) *
               row.fraction;
}

double aligned_bin(const RoiAlign& rule, const float* box, const std::vector<float>& map, int64_t height, int64_t width,
                   int64_t channels, int64_t c, int64_t row, int64_t column) {
    const double shift = rule.aligned ? 0.5 : 0, x = box[0] - shift, y = box[1] - shift;
    double w = static_cast<double>(box[2]) - box[0], h = static_cast<double>(box[3]) - box[1];
    if (!rule.aligned) w = std::max(w, 1.0), h = std::max(h, 1.0);
    auto samples = [&](double extent, int64_t bins) {
        return rule.sampling_ratio ? rule.sampling_ratio
                                   : static_cast<int64_t>(std::max(std::ceil(extent / static_cast<double>(bins)), 0.0));
    };
    const int64_t nx = samples(w, rule.bins.columns), ny = samples(h, rule.bins.rows);
    double sum = 0;
    for (int64_t i = 0; i < ny; i++) {
        for (int64_t j = 0; j < nx; j++) {
            const double at_x =
                x + w * (static_cast<double>(column * nx + j) + 0.5) / static_cast<double>(rule.bins.columns * nx);
            const double at_y =
                y + h * (static_cast<double>(row * ny + i) + 0.5) / static_cast<double>(rule.bins.rows * ny);
            sum += sample(map, height, width, channels, c, at_x, at_y);
        }
    }
    return sum / static_cast<double>(std::max<int64_t>(nx * ny, 1));
}

std::vector<float> noise(int64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = uniform(-1, 1);
    return values;
}

double product(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += static_cast<double>(a[i]) * b[i];
    return sum;
}

// Forward and backward are adjoint: <pool(map), grad> = <map, pool_backward(grad)>.
template <class Rule>
std::vector<float> check_adjoint(const Rule& rule, std::vector<float>& map, int64_t height, int64_t width,
                                 int64_t channels, const std::vector<float>& boxes) {
    const int64_t count = static_cast<int64_t>(boxes.size() / 4);
    const std::vector<int64_t> images(count, 0);
    const Rois rois{boxes.data(), images.data(), nullptr, count};
    std::vector<float> pooled(count * rule.bins.rows * rule.bins.columns * channels, 7), sums(map.size());
    pool<float, float>(rule, {{map.data(), height, width, 1.0}}, channels, rois, 0.0f, pooled.data(), threads);
    const std::vector<float> grad = noise(static_cast<int64_t>(pooled.size()));
    pool_backward<float, float>(rule, {{sums.data(), height, width, 1.0}}, channels, rois, grad.data(), threads);
    require(std::abs(product(pooled, grad) - product(map, sums)) <= 1e-5 * (1 + static_cast<double>(pooled.size())),
            "pool_backward");
    return pooled;
}

void check_pooling() {
    const int64_t height = pick(1, 20), width = pick(1, 20), channels = one_of({1, 3, 16, 20});
    std::vector<float> map = noise(height * width * channels);
    const RoiAlign rule{
        {one_of<int64_t>({1, 2, 7}), one_of<int64_t>({1, 3, 7})}, one_of<int64_t>({0, 0, 1, 2}), chance(0.5)};
    const int64_t bins = rule.bins.rows * rule.bins.columns;
    check_adjoint(rule, map, height, width, channels, finite_boxes(20, 20));
    const std::vector<float> boxes = random_boxes(pick(0, 20), 20, false);
    const std::vector<float> pooled = check_adjoint(rule, map, height, width, channels, boxes);
    for (size_t i = 0; i < pooled.size(); i += 1 + pooled.size() / 50) {
        const int64_t at = static_cast<int64_t>(i), c = at % channels, bin = at / channels % bins;
        const float* box = &boxes[4 * (at / channels / bins)];
        const double wanted =
            aligned_bin(rule, box, map, height, width, channels, c, bin / rule.bins.columns, bin % rule.bins.columns);
        require(std::abs(pooled[i] - wanted) < 1e-3, "roi_align");
    }
    std::vector<float> crops = finite_boxes(20, 20);
    for (float& value : crops) value /= 20;
    check_adjoint(CropAndResize{rule.bins}, map, height, width, channels, crops);
    const std::vector<float> whole{0, 0, 1, 1};  // corners of the map fall on corners of the crop
    const std::vector<float> crop = check_adjoint(CropAndResize{{2, 2}}, map, height, width, channels, whole);
    require(std::abs(crop[0] - map[0]) < 1e-6f && std::abs(crop.back() - map.back()) < 1e-6f, "crop_and_resize");
}

void check_sample_masks() {
    const int64_t height = pick(1, 30), width = pick(1, 30), count = pick(1, 10);
    const OwnMasks masks = random_masks(count, height, width);
    const std::vector<float> boxes = chance(0.5) ? finite_boxes(20, 30) : random_boxes(20, 30, false);
    const RoiAlign rule{{one_of<int64_t>({1, 7}), one_of<int64_t>({1, 5})}, one_of<int64_t>({0, 2}), chance(0.5)};
    const int64_t bins = rule.bins.rows * rule.bins.columns;
    std::vector<int64_t> index(20);
    for (int64_t& one : index) one = pick(0, count - 1);
    std::vector<float> soft(20 * bins), hard(soft.size()), wanted(bins), map(height * width);
    sample_masks(masks.view(), height, width, boxes.data(), index.data(), 20, rule, true, soft.data(), threads);
    sample_masks(masks.view(), height, width, boxes.data(), index.data(), 20, rule, false, hard.data(), threads);
    for (int64_t k = 0; k < 20; k++) {
        for (int64_t at = 0; at < height * width; at++)
            map[at] = static_cast<float>(masks.at(index[k], at % width, at / width)) / 255;
        const std::vector<int64_t> images(1, 0);
        pool<float, float>(rule, {{map.data(), height, width, 1.0}}, 1, {&boxes[4 * k], images.data(), nullptr, 1},
                           0.0f, wanted.data(), threads);
        for (size_t i = 0; i < wanted.size(); i++) {
            const size_t at = k * wanted.size() + i;
            require(std::abs(soft[at] - wanted[i]) < 1e-4f && hard[at] == static_cast<float>(soft[at] >= 0.5f),
                    "sample_masks");
        }
    }
}

void check_paste_masks() {
    const int64_t height = pick(1, 30), width = pick(1, 30), count = pick(0, 10), side = one_of({1, 2, 7, 28});
    OwnMasks drawn(random_masks(count, height, width).windows);
    const std::vector<float> boxes = random_boxes(count, 20, chance(0.5)), probabilities(count * side * side, 0.25f);
    paste_masks(probabilities.data(), side, boxes.data(), drawn.windows.data(), drawn.offsets.data(), count,
                drawn.levels.data(), threads);
    require(std::all_of(drawn.levels.begin(), drawn.levels.end(), [](uint8_t level) { return level == 64; }),
            "paste_masks");
    const std::vector<float> broken(probabilities.size(), strange_number());
    paste_masks(broken.data(), side, boxes.data(), drawn.windows.data(), drawn.offsets.data(), count,
                drawn.levels.data(), threads);
}

// However little there is to do.
void fine_threads(int64_t count, int64_t, const Range& range) { threads(count, 1, range); }

void check_measure_masks() {
    const int64_t height = pick(1, 40), width = pick(1, 40);
    const OwnMasks masks = random_masks(one_of({0, 1, 20}), height, width);
    std::vector<int64_t> areas(masks.count());
    std::vector<Window> boxes(masks.count());
    measure_masks(masks.view(), areas.data(), boxes.data(), fine_threads);
    for (int64_t i = 0; i < masks.count(); i++) {
        const Window &window = masks.windows[i], &box = boxes[i];
        int64_t area = 0;
        Window wanted = {};
        for (int64_t y = window.y1; y < window.y2; y++) {
            for (int64_t x = window.x1; x < window.x2; x++) {
                if (masks.at(i, x, y) < inside) continue;
                const Window here = {static_cast<int32_t>(x), static_cast<int32_t>(y), static_cast<int32_t>(x + 1),
                                     static_cast<int32_t>(y + 1)};
                if (area++ == 0) wanted = here;
                wanted = {std::min(wanted.x1, here.x1), std::min(wanted.y1, here.y1), std::max(wanted.x2, here.x2),
                          std::max(wanted.y2, here.y2)};
            }
        }
        require(areas[i] == area, "measure_masks: areas");
        require(box.x1 == wanted.x1 && box.y1 == wanted.y1 && box.x2 == wanted.x2 && box.y2 == wanted.y2,
                "measure_masks: boxes");
    }
}

void check_pick_masks() {
    const int64_t count = one_of({1, 20}), height = pick(1, 40), width = pick(1, 40);
    const OwnMasks masks = random_masks(count, height, width);
    std::vector<int64_t> index(one_of({0, 1, 20}));
    std::vector<Window> windows;
    for (int64_t& one : index) {
        one = pick(0, count - 1);
        windows.push_back(masks.windows[one]);
    }
    OwnMasks picked(windows);
    pick_masks(masks.view(), index.data(), picked.count(), picked.offsets.data(), picked.levels.data(), fine_threads);
    for (int64_t k = 0; k < picked.count(); k++) {
        const auto same =
            std::equal(picked.levels.begin() + picked.offsets[k], picked.levels.begin() + picked.offsets[k + 1],
                       masks.levels.begin() + masks.offsets[index[k]]);
        require(same, "pick_masks");
    }
}

void check_mask_iou() {
    const int64_t height = pick(1, 40), width = pick(1, 40);
    const OwnMasks rows = random_masks(one_of({0, 1, 20}), height, width),
                   columns = random_masks(one_of({0, 1, 20}), height, width);
    const std::vector<MaskOverlap> found = mask_iou(rows.view(), columns.view(), threads);
    size_t next = 0;
    for (int64_t i = 0; i < rows.count(); i++) {
        for (int64_t j = 0; j < columns.count(); j++) {
            int64_t shared = 0, together = 0;
            for (int64_t at = 0; at < height * width; at++) {
                const bool a = rows.at(i, at % width, at / width) >= inside,
                           b = columns.at(j, at % width, at / width) >= inside;
                shared += a && b;
                together += a || b;
            }
            if (shared == 0) continue;
            require(next < found.size() && found[next].row == i && found[next].column == j, "mask_iou: pairs");
            require(found[next++].iou == static_cast<float>(shared) / static_cast<float>(together), "mask_iou");
        }
    }
    require(next == found.size(), "mask_iou: a pair too many");
}

void check_label_image() {
    const int64_t height = pick(1, 40), width = pick(1, 40);
    const OwnMasks masks = random_masks(one_of({0, 1, 20}), height, width);
    std::vector<int32_t> labels(height * width);
    Flags kept = std::make_unique<bool[]>(masks.count());
    label_image(masks.view(), width, one_of({0.0, 0.5, 1.0}), labels.data(), kept.get());
    for (int64_t at = 0; at < height * width; at++) {
        int64_t number = 0, wanted = 0;
        for (int64_t i = 0; i < masks.count(); i++) {
            number += kept[i];
            if (kept[i] && wanted == 0 && masks.at(i, at % width, at / width) >= inside) wanted = number;
        }
        require(labels[at] == wanted, "label_image");
    }
    std::vector<int64_t> ids;
    for (int64_t id = -1; id < 25; id++) ids.push_back(id);
    std::shuffle(ids.begin(), ids.end(), engine);
    ids.resize(pick(0, 26));
    const int64_t count = static_cast<int64_t>(ids.size());
    OwnMasks cut(windows_of_labels(labels.data(), height, width, ids.data(), count));
    cut_labels(labels.data(), width, ids.data(), cut.windows.data(), cut.offsets.data(), count, cut.levels.data(),
               threads);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t at = 0; at < height * width; at++) {
            require((cut.at(i, at % width, at / width) == 255) == (ids[i] != 0 && labels[at] == ids[i]),
                    "masks_from_label_image");
        }
    }
}

struct Decoded {
    OwnMasks masks;
    int64_t broken;
};

Decoded decode(const std::vector<Text>& texts, int64_t height, int64_t width) {
    Text text;
    std::vector<int64_t> offsets{0};
    for (const Text& one : texts) {
        text.insert(text.end(), one.begin(), one.end());
        offsets.push_back(static_cast<int64_t>(text.size()));
    }
    text.shrink_to_fit();
    const int64_t count = static_cast<int64_t>(texts.size());
    int64_t broken = 0;
    OwnMasks masks(windows_of_rle(text.data(), offsets.data(), count, height, width, broken));
    decode_rle(text.data(), offsets.data(), masks.windows.data(), masks.offsets.data(), count, height, width,
               masks.levels.data(), threads);
    return {masks, broken};
}

void check_rle() {
    const int64_t height = pick(1, 40), width = pick(1, 40), count = pick(0, 10);
    const OwnMasks masks = random_masks(count, height, width);
    std::vector<Text> texts = encode_rle(masks.view(), height, width, threads);
    const Decoded whole = decode(texts, height, width);
    require(whole.broken == -1, "decode_rle: refuses what encode_rle wrote");
    for (int64_t i = 0; i < count; i++) {
        for (int64_t at = 0; at < height * width; at++) {
            const int64_t x = at % width, y = at / width;
            require((masks.at(i, x, y) >= inside) == (whole.masks.at(i, x, y) == 255), "masks and RLE");
        }
    }
    Text huge;  // forty runs, each so long that their sum is no number
    for (int letter = 0; letter < 12 * 40; letter++) huge.push_back(letter % 12 == 11 ? 63 : 111);
    require(decode({huge}, height, width).broken == 0, "RLE of huge runs");
    // Broken text, some of it with numbers of too many digits: nothing outside is touched, other letters are refused.
    for (Text& text : texts) {
        const bool made_up = chance(0.5);
        if (made_up) text.resize(pick(0, 40));
        for (uint8_t& letter : text) {
            if (made_up) letter = static_cast<uint8_t>(pick(chance(0.8) ? 80 : 48, 111));
            if (chance(0.05)) letter = static_cast<uint8_t>(pick(0, 255));
        }
        const bool foreign =
            std::any_of(text.begin(), text.end(), [](uint8_t letter) { return letter < 48 || letter > 111; });
        const Decoded one = decode({text}, height, width);
        require(one.broken == 0 || !foreign, "RLE in other letters");
        require(one.broken == 0 ||
                    decode(encode_rle(one.masks.view(), height, width, threads), height, width).masks.levels ==
                        one.masks.levels,
                "broken RLE");
    }
    decode(texts, height, width);
}

}  // namespace

int main(int count, char** arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 300;
    const std::initializer_list<std::pair<const char*, void (*)()>> checks{
        {"nms", check_nms},
        {"match_boxes", check_match_boxes},
        {"match_anchors", check_match_anchors},
        {"roi_align, crop_and_resize", check_pooling},
        {"sample_masks", check_sample_masks},
        {"paste_masks", check_paste_masks},
        {"warp_masks", check_warp_masks},
        {"warp_image of bytes", check_warp_image<uint8_t>},
        {"warp_image of floats", check_warp_image<float>},
        {"measure_masks", check_measure_masks},
        {"pick_masks", check_pick_masks},
        {"mask_iou", check_mask_iou},
        {"label images", check_label_image},
        {"RLE", check_rle},
    };
    for (const auto& [name, check] : checks) {
        for (int round = 0; round < rounds; round++) check();
        std::printf("%s: %d rounds\n", name, rounds);
        std::fflush(stdout);
    }
}
