// A good deal of the C++ library: streams, strings, containers, algorithms, regular loops and calls through pointers. Prints what each rank has sorted.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mpi.h>
#include <sstream>
#include <string>
#include <vector>

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
};
struct Square : Shape {
    double side;
    explicit Square(double s) : side(s) {}
    double area() const override { return side * side; }
};
struct Circle : Shape {
    double radius;
    explicit Circle(double r) : radius(r) {}
    double area() const override { return 3 * radius * radius; }
};

int main(int argc, char **argv) {
    int me = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    std::map<std::string, std::vector<std::unique_ptr<Shape>>> shapes;
    for (int i = 0; i < 200; i++) {
        std::ostringstream name;
        name << "group " << i % 7;
        if ((i + me) % 2)
            shapes[name.str()].push_back(std::make_unique<Square>(i * 0.5));
        else
            shapes[name.str()].push_back(std::make_unique<Circle>(i * 0.25));
    }
    std::function<bool(const std::unique_ptr<Shape> &, const std::unique_ptr<Shape> &)> by_area =
        [](const auto &a, const auto &b) { return a->area() > b->area(); };
    for (auto &[name, list] : shapes) {
        std::stable_sort(list.begin(), list.end(), by_area);
        std::cout << me << ' ' << name << ' ' << list.size() << ' ' << list.front()->area() << '\n';
        MPI_Barrier(MPI_COMM_WORLD);
    }
    MPI_Finalize();
}
