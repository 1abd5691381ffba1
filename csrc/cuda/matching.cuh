// The best target of each prior, without a dense matrix. What is computed: maskrcnn/ops/reference.py.
#pragma once

#include "boxes.cuh"

namespace smallobjects {

// What P priors match: index [P], iou [P], forced [P].
struct Matches {
    int64_t* index;
    float* iou;
    bool* forced;
};

// Writes the best of the targets in the grid, none if it is below `min_iou`.
__device__ inline void match_prior(const Grid& targets, const Box& prior, float min_iou, int64_t p,
                                   const Matches& matches) {
    int64_t index = -1;
    float best = 0;
    if (prior.sound()) {
        targets.nearby(prior, 0, min_iou, [&](int64_t t) {
            const float iou = iou_of(box_at(targets.boxes, t), prior);
            if (iou > best || (iou == best && iou > 0 && t < index)) {
                index = t;
                best = iou;
            }
            return false;
        });
    }
    matches.index[p] = best < min_iou ? -1 : index;
    matches.iou[p] = best < min_iou ? 0 : best;
}

__global__ void match_priors(Grid targets, const float* priors, int64_t prior_count, float min_iou, Matches matches) {
    for (int64_t p = this_thread(); p < prior_count; p += all_threads()) {
        match_prior(targets, box_at(priors, p), matches.forced[p] ? 0.0f : min_iou, p, matches);
    }
}

// Marks the priors that each target overlaps best. forced [P], zeroed.
__global__ void force_priors(Grid priors, const float* targets, int64_t target_count, Ties ties, bool* forced) {
    for (int64_t t = this_thread(); t < target_count; t += all_threads()) {
        const Box target = box_at(targets, t);
        if (!target.sound()) continue;
        float best = 0;
        priors.nearby(target, 0, 0.0, [&](int64_t p) {
            best = larger(best, iou_of(target, box_at(priors.boxes, p)));
            return false;
        });
        if (best <= 0) continue;
        int64_t nearest = -1;
        float distance = 0;
        priors.nearby(target, 0, 0.0, [&](int64_t p) {
            const Box prior = box_at(priors.boxes, p);
            if (iou_of(target, prior) < best * tie) return false;
            if (ties == Ties::all) {
                poke(&forced[p], true);
                return false;
            }
            const float apart = squared_distance(target, prior);
            if (nearest < 0 || apart < distance || (apart == distance && p < nearest)) {
                nearest = p;
                distance = apart;
            }
            return false;
        });
        if (nearest >= 0) poke(&forced[nearest], true);
    }
}

}  // namespace smallobjects
