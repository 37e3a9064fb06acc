//! Topologies: which ranks of a communicator are neighbours (MPI 4, chapter 8).

use crate::error::{Class, Error, Result};
use crate::rank::PROC_NULL;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Topology {
    Cart { dims: Vec<i32>, periods: Vec<bool> },
    /// `index[i]`: how many edges ranks 0 to `i` have together.
    Graph { index: Vec<i32>, edges: Vec<i32> },
    /// Only this rank's own edges. `weights: None`: it has none.
    Adjacent { sources: Vec<i32>, destinations: Vec<i32>, weights: Option<(Vec<i32>, Vec<i32>)> },
}

fn wrong<T>(class: Class, text: String) -> Result<T> {
    Err(Error::new(class, text))
}

impl Topology {
    /// A grid, checked; with the number of its ranks.
    pub fn cart(dims: Vec<i32>, periods: Vec<bool>, size: u32) -> Result<(Topology, u32)> {
        let ranks = dims.iter().try_fold(1u32, |n, d| n.checked_mul(u32::try_from(*d).ok().filter(|d| *d > 0)?));
        match ranks {
            Some(n) if n <= size => Ok((Topology::Cart { dims, periods }, n)),
            _ => wrong(Class::Dims, format!("a grid of {dims:?} ranks is none of at most {size}")),
        }
    }

    /// A graph, checked; with the number of its ranks.
    pub fn graph(index: Vec<i32>, edges: Vec<i32>, size: u32) -> Result<(Topology, u32)> {
        let n = index.len();
        let ordered = index.windows(2).all(|w| w[0] <= w[1]) && index.first().is_none_or(|i| *i >= 0);
        let all = index.last().copied().unwrap_or(0);
        if n > size as usize || !ordered || all as usize != edges.len() || edges.iter().any(|e| *e < 0 || *e as usize >= n) {
            return wrong(Class::Topology, format!("{n} nodes with {} edges are no graph of at most {size} ranks", edges.len()));
        }
        Ok((Topology::Graph { index, edges }, n as u32))
    }

    /// The rank with these coordinates. Those of a dimension that wraps may be outside of it.
    pub fn rank(&self, coords: &[i32]) -> Result<i32> {
        let Topology::Cart { dims, periods } = self else { return wrong(Class::Topology, "the communicator is no grid".into()) };
        let mut rank = 0i64;
        for ((c, d), wraps) in coords.iter().zip(dims).zip(periods) {
            let c = if *wraps { c.rem_euclid(*d) } else { *c };
            if c < 0 || c >= *d {
                return wrong(Class::Rank, format!("coordinate {c} is outside of a dimension of {d}"));
            }
            rank = rank * i64::from(*d) + i64::from(c);
        }
        Ok(rank as i32)
    }

    pub fn coords(&self, rank: i32) -> Result<Vec<i32>> {
        let Topology::Cart { dims, .. } = self else { return wrong(Class::Topology, "the communicator is no grid".into()) };
        let all: i64 = dims.iter().map(|d| i64::from(*d)).product();
        if rank < 0 || i64::from(rank) >= all {
            return wrong(Class::Rank, format!("rank {rank} is not in a grid of {all}"));
        }
        let mut left = rank;
        let mut coords: Vec<i32> = dims
            .iter()
            .rev()
            .map(|d| {
                let c = left % d;
                left /= d;
                c
            })
            .collect();
        coords.reverse();
        Ok(coords)
    }

    /// Who is `by` steps before and after a rank in a dimension.
    pub fn shift(&self, rank: i32, dimension: i32, by: i32) -> Result<(i32, i32)> {
        let Topology::Cart { dims, periods } = self else { return wrong(Class::Topology, "the communicator is no grid".into()) };
        let d = usize::try_from(dimension).ok().filter(|d| *d < dims.len());
        let Some(d) = d else { return wrong(Class::Dims, format!("dimension {dimension} is not one of {}", dims.len())) };
        let coords = self.coords(rank)?;
        let at = |by: i64| {
            let c = i64::from(coords[d]) + by;
            if !periods[d] && (c < 0 || c >= i64::from(dims[d])) {
                return Ok(PROC_NULL);
            }
            let mut coords = coords.clone();
            coords[d] = c.rem_euclid(i64::from(dims[d])) as i32;
            self.rank(&coords)
        };
        Ok((at(-i64::from(by))?, at(i64::from(by))?))
    }

    /// A graph's edges from a rank.
    pub fn edges_of(&self, rank: i32) -> Result<&[i32]> {
        let Topology::Graph { index, edges } = self else { return wrong(Class::Topology, "the communicator is no graph".into()) };
        let i = usize::try_from(rank).ok().filter(|i| *i < index.len());
        let Some(i) = i else { return wrong(Class::Rank, format!("rank {rank} is not in a graph of {}", index.len())) };
        let from = if i == 0 { 0 } else { index[i - 1] };
        Ok(&edges[from as usize..index[i] as usize])
    }

    /// Whom a rank hears of and whom it tells in a neighbourhood collective, in the order of their shares.
    pub fn neighbours(&self, me: u32) -> Result<(Vec<i32>, Vec<i32>)> {
        Ok(match self {
            Topology::Cart { dims, .. } => {
                let mut all = Vec::with_capacity(2 * dims.len());
                for d in 0..dims.len() {
                    let (before, after) = self.shift(me as i32, d as i32, 1)?;
                    all.extend([before, after]);
                }
                (all.clone(), all)
            }
            Topology::Graph { .. } => {
                let all = self.edges_of(me as i32)?.to_vec();
                (all.clone(), all)
            }
            Topology::Adjacent { sources, destinations, .. } => (sources.clone(), destinations.clone()),
        })
    }

    /// Whether a topology that was read from elsewhere is one of a communicator of `size` ranks.
    pub(crate) fn check(&self, size: u32) -> Result<()> {
        match self {
            Topology::Cart { dims, periods } if dims.len() == periods.len() => Topology::cart(dims.clone(), periods.clone(), size).map(drop),
            Topology::Cart { .. } => wrong(Class::Topology, "a grid says not of each dimension whether it wraps".into()),
            Topology::Graph { index, edges } => Topology::graph(index.clone(), edges.clone(), size).map(drop),
            Topology::Adjacent { sources, destinations, .. } => {
                let there = |r: &i32| *r == PROC_NULL || (*r >= 0 && (*r as u32) < size);
                match sources.iter().chain(destinations).all(there) {
                    true => Ok(()),
                    false => wrong(Class::Topology, "a neighbour is not in the communicator".into()),
                }
            }
        }
    }
}

/// `MPI_Dims_create`: fills the zeros of `dims` so that all multiply to `ranks`, as even as can be, the larger ones first.
pub fn balance(ranks: i32, dims: &mut [i32]) -> Result<()> {
    let given = dims.iter().filter(|d| **d != 0).try_fold(1i32, |n, d| n.checked_mul(*d));
    if ranks < 1 || dims.iter().any(|d| *d < 0) || given.is_none_or(|g| g < 1 || ranks % g != 0) {
        return wrong(Class::Dims, format!("{ranks} ranks can't be spread over {dims:?}"));
    }
    let free = dims.iter().filter(|d| **d == 0).count();
    let mut left = ranks / given.unwrap_or(1);
    if free == 0 {
        return if left == 1 { Ok(()) } else { wrong(Class::Dims, format!("{dims:?} has not {ranks} ranks")) };
    }
    let mut made = Vec::with_capacity(free);
    for n in (1..=free as u32).rev() {
        let d = divisors(left).into_iter().filter(|d| *d >= root(left, n)).min().unwrap_or(left);
        made.push(d);
        left /= d;
    }
    made.sort_by(|a, b| b.cmp(a));
    // That is even in most cases, and a bound for the search in the others.
    let mut even = Even { best: spread(&made), dims: made, steps: 0 };
    even.search(ranks / given.unwrap_or(1), i32::MAX, &mut Vec::with_capacity(free), free);
    let made = even.dims;
    dims.iter_mut().filter(|d| **d == 0).zip(made).for_each(|(d, m)| *d = m);
    Ok(())
}

/// The smallest number whose `n`-th power is not below `of`.
fn root(of: i32, n: u32) -> i32 {
    (f64::from(of).powf(1.0 / f64::from(n)) - 1e-9).ceil().max(1.0) as i32
}

fn divisors(of: i32) -> Vec<i32> {
    (1..).take_while(|d| i64::from(*d) * i64::from(*d) <= i64::from(of)).filter(|d| of % d == 0).flat_map(|d| [d, of / d]).collect()
}

/// How uneven a grid is whose larger dimensions come first: how far the smallest is from the largest; of equals, that is better
/// whose smallest is larger, then that with the smaller sum.
fn spread(dims: &[i32]) -> (i32, i32, i64) {
    let (most, least) = (dims.first().copied().unwrap_or(1), dims.last().copied().unwrap_or(1));
    (most - least, -least, dims.iter().map(|d| i64::from(*d)).sum())
}

/// Looks for the most even grid, see [`spread`].
struct Even {
    best: (i32, i32, i64),
    dims: Vec<i32>,
    steps: u32,
}

impl Even {
    fn search(&mut self, left: i32, most: i32, chosen: &mut Vec<i32>, free: usize) {
        /// Enough for all numbers of ranks that exist; the program waits meanwhile.
        const STEPS_MAX: u32 = 20_000;
        self.steps += 1;
        let n = (free - chosen.len()) as u32;
        if n == 0 {
            // Of grids that are as even, that with the larger dimension where they differ first.
            if left == 1 && (spread(chosen), &self.dims) < (self.best, chosen) {
                (self.best, self.dims) = (spread(chosen), chosen.clone());
            }
            return;
        }
        let low = root(left, n);
        // The smallest that is to come is not above the root.
        if self.steps > STEPS_MAX || chosen.first().is_some_and(|first| first - low > self.best.0) {
            return;
        }
        let mut all: Vec<i32> = divisors(left).into_iter().filter(|d| *d >= low && *d <= most).collect();
        all.sort_unstable();
        all.dedup();
        for d in all {
            chosen.push(d);
            self.search(left / d, d, chosen, free);
            chosen.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids() {
        let (t, n) = Topology::cart(vec![3, 4], vec![true, false], 20).unwrap();
        assert_eq!(n, 12);
        for rank in 0..12 {
            assert_eq!(t.rank(&t.coords(rank).unwrap()).unwrap(), rank);
        }
        assert_eq!(t.shift(1, 0, 1).unwrap(), (9, 5));
        assert_eq!(t.shift(3, 1, 1).unwrap(), (2, PROC_NULL));
        assert_eq!(t.rank(&[-1, 2]).unwrap(), 10);
        assert!(t.rank(&[0, 4]).is_err() && t.coords(12).is_err() && t.shift(0, 2, 1).is_err());
        assert!(Topology::cart(vec![3, 0], vec![true; 2], 9).is_err() && Topology::cart(vec![i32::MAX; 3], vec![true; 3], 9).is_err());
    }

    #[test]
    fn even_grids() {
        for (ranks, dims, expected) in [(12, vec![0, 0], vec![4, 3]), (64, vec![0, 0, 0], vec![4, 4, 4]), (2, vec![0, 0, 0], vec![2, 1, 1]), (24, vec![0, 2, 0], vec![4, 2, 3]), (7, vec![0, 0], vec![7, 1]), (936, vec![0, 0, 0], vec![13, 9, 8]), (5040, vec![0, 0, 0], vec![21, 16, 15]), (6552, vec![0, 0, 0], vec![24, 21, 13]), (98784, vec![0; 5], vec![14, 14, 9, 8, 7]), (1 << 30, vec![0; 20], [vec![4; 10], vec![2; 10]].concat())] {
            let mut made = dims.clone();
            balance(ranks, &mut made).unwrap();
            assert_eq!(made, expected);
        }
        assert!(balance(7, &mut [2, 0]).is_err());
    }
}
